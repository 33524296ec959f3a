"""Diffusion prior of unCLIP (2204.06125, section 2.2): from a caption and its CLIP embedding to an image
embedding.

Parameter names are Karlo's where it has the part, which diffusers' `PriorTransformer` converts from.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config import PriorConfig
from models.diffusion.analytic import NoisePowers
from models.diffusion.guidance import Guided
from models.diffusion.noise import SampleNoise, sampling_dtype
from models.diffusion.process import Diffusion
from models.diffusion.samplers import Callback
from models.layers import timestep_embedding
from models.sampling import StageSampling, sample
from models.text_features import NullText, pad_to_context
from models.text_transformer import fit_to_context
from models.transformer import Transformer

EXTRA_TOKENS = 4
"""After the text: text embedding, timestep, noised image embedding, read-out."""


def embedding_scale(dim: int) -> float:
    """What unit-norm embeddings are multiplied by before they are diffused.

    unCLIP multiplies by 17.2 at 1,024 dimensions, which gives each of them the standard deviation of
    ImageNet's pixels in [-1, 1] (0.5375), so that image noise schedules fit.  The same deviation at another
    dimension asks for 17.2 * sqrt(dim / 1024).
    """
    return 17.2 * math.sqrt(dim / 1024)


@final
class DiffusionPrior(nn.Module):
    """Causal transformer over [text, text embedding, timestep, noised image embedding, read-out] that
    predicts the un-noised image embedding at the read-out.

    The scale: `x_t` and the output live where the diffusion does, at `embedding_scale(d)` times the embedding
    (the caller scales before `q_sample`; `to_embedding` goes back); `text_embedding` comes as the encoder
    gives it, at unit norm, and is scaled in here.  With `normalisation="standardised"` the embeddings have
    no norm set, the diffusion lives at (z - mean) / std, and text embeddings are taken as they come.

    The text is encoded by the same causal transformer, as in the paper's Table 3 (one 24 x 2048 stack); with
    `text_features_dim` it takes an outer encoder's features instead, as Karlo does.
    """

    embedding_mean: Tensor
    embedding_std: Tensor

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.text_enc_proj: nn.Module = (
            nn.Linear(config.text_features_dim, width)
            if config.text_features_dim is not None
            else nn.Embedding(config.vocab_size or 0, width)
        )
        self.text_emb_proj = nn.Linear(config.embedding_dim, width)
        self.clip_img_proj = nn.Linear(config.embedding_dim, width)
        self.out_proj = nn.Linear(width, config.embedding_dim)
        self.prd_emb = nn.Parameter(torch.empty(1, 1, width))
        self.positional_embedding = nn.Parameter(torch.empty(1, config.context + EXTRA_TOKENS, width))
        self._add_null()
        if config.normalisation == "standardised":
            self.register_buffer("embedding_mean", torch.zeros(1, config.embedding_dim))
            self.register_buffer("embedding_std", torch.ones(1, config.embedding_dim))
        self.transformer = Transformer(width, config.layers, config.heads, config.dropout)
        self.final_ln = nn.LayerNorm(width)
        learned = [self.prd_emb, self.positional_embedding]
        if self.given_null is None:
            learned += [self.null_text, self.null_text_embedding]
        for parameter in learned:
            nn.init.normal_(parameter, std=0.02)
        if isinstance(self.text_enc_proj, nn.Embedding):
            nn.init.normal_(self.text_enc_proj.weight, std=0.02)

    @property
    def scale(self) -> float:
        """What unit-norm embeddings are multiplied by; standardised ones are not."""
        return embedding_scale(self.config.embedding_dim) if self.config.normalisation == "unit_norm" else 1.0

    def to_embedding(self, x0: Float[Tensor, "B d"]) -> Float[Tensor, "B d"]:
        """Back from where the diffusion lives: of unit norm, or as the encoder gives embeddings."""
        if self.config.normalisation == "unit_norm":
            return F.normalize(x0 / self.scale, dim=-1)
        return x0 * self.embedding_std + self.embedding_mean

    def set_null(
        self,
        features: Float[Tensor, "1 L c"],
        mask: Bool[Tensor, "1 L"],
        text_embedding: Float[Tensor, "1 d"],
    ) -> None:
        """What stands for a dropped text where the configuration says it is given."""
        if self.given_null is None:
            raise ValueError("set_null: this network learned its null; configure null_text='given'")
        self.given_null.set(features, mask, text_embedding)

    @property
    def data_variance(self) -> float:
        """Mean square of what is diffused, per dimension; an upper bound of its variance."""
        unit_norm = self.config.normalisation == "unit_norm"
        return self.scale**2 / self.config.embedding_dim if unit_norm else 1.0

    def forward(
        self,
        x_t: Float[Tensor, "B d"],
        t: Int[Tensor, " B"],
        text: Int[Tensor, "B L"] | Float[Tensor, "B L c"],
        text_mask: Bool[Tensor, "B L"],
        text_embedding: Float[Tensor, "B d"],
        drop: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B d"]:
        """Predict x_0 from x_t.  Where `drop` is True, text and text embedding are replaced by learned nulls.

        Raises `ValueError` on a wrong embedding width, a prompt past the context, or ids where features are
        expected and the other way round.
        """
        self._check("x_t", x_t)
        told, valid = self._tell(text, text_mask, text_embedding, drop)
        sequence = torch.cat([told, self._ask(x_t, t)], dim=1) + self.positional_embedding
        hidden = self.transformer(sequence, _causal_mask(valid))
        return self.out_proj(self.final_ln(hidden[:, -1]))

    @torch.no_grad()
    def condition(
        self,
        text: Int[Tensor, "B L"] | Float[Tensor, "B L c"],
        text_mask: Bool[Tensor, "B L"],
        text_embedding: Float[Tensor, "B d"],
        drop: Bool[Tensor, " B"] | None = None,
    ) -> dict[str, Tensor]:
        """What `denoise` takes beside x_t and t.

        The network is causal, and text and text embedding come first: their keys and values are the same at
        every step of a chain, which is left with three positions instead of context + 4.
        """
        told, valid = self._tell(text, text_mask, text_embedding, drop)
        mask, length = _causal_mask(valid), told.shape[1]
        storage = self.transformer.cache_storage(told, mask.shape[3])
        caches = self.transformer.caches(storage)
        told = told + self.positional_embedding[:, :length]
        self.transformer(told, mask[..., :length, :length], caches)
        return {"told": storage, "mask": mask[..., length:, :]}

    @torch.no_grad()
    def denoise(
        self,
        x_t: Float[Tensor, "B d"],
        t: Int[Tensor, " B"],
        *,
        told: Float[Tensor, "B layers 2 heads positions c"],
        mask: Bool[Tensor, "B 1 3 positions"],
    ) -> Float[Tensor, "B d"]:
        """`forward` with what `condition` made of the text."""
        self._check("x_t", x_t)
        length = mask.shape[3] - mask.shape[2]
        asked = self._ask(x_t, t) + self.positional_embedding[:, length:]
        hidden = self.transformer(asked, mask, self.transformer.caches(told, length))
        return self.out_proj(self.final_ln(hidden[:, -1]))

    def _tell(
        self, text: Tensor, text_mask: Tensor, text_embedding: Tensor, drop: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[B, context + 1, width] of text and text embedding, and where the text is valid."""
        self._check("text_embedding", text_embedding)
        if drop is not None and self.given_null is not None:
            text, text_mask = pad_to_context(text, text_mask, self.config.context)
            text, text_mask, replaced = self.given_null.replace(text, text_mask, text_embedding, drop)
            assert replaced is not None
            text_embedding = replaced
        tokens, valid = self._encode_text(text, text_mask)
        pooled = self.text_emb_proj(text_embedding * self.scale)
        if drop is not None and self.given_null is None:
            tokens = torch.where(drop[:, None, None], self.null_text, tokens)
            pooled = torch.where(drop[:, None], self.null_text_embedding, pooled)
            valid = valid | drop[:, None]
        return torch.cat([tokens, pooled[:, None]], dim=1), valid

    def _ask(self, x_t: Tensor, t: Tensor) -> Tensor:
        """[B, 3, width] of timestep, noised image embedding and read-out."""
        image = self.clip_img_proj(x_t)
        time = self.time_embed(timestep_embedding(t, self.config.width).to(image.dtype))
        read_out = self.prd_emb.expand(len(x_t), -1, -1).to(image.dtype)
        return torch.cat([torch.stack([time, image], dim=1), read_out], dim=1)

    @torch.no_grad()
    def sample(
        self,
        text: Int[Tensor, "B L"] | Float[Tensor, "B L c"],
        text_mask: Bool[Tensor, "B L"],
        text_embedding: Float[Tensor, "B d"],
        *,
        diffusion: Diffusion,
        powers: NoisePowers,
        settings: StageSampling,
        noise: SampleNoise,
        callback: Callback | None = None,
    ) -> Float[Tensor, "B d"]:
        """Image embeddings of unit norm.

        The paper leaves the norm of a sample as it comes; here it is set to 1, the only one the decoder has
        seen.  A prior of standardised embeddings (Karlo) sets none, and clamps x0 as its process says.
        """
        null = conditional = self.condition(text, text_mask, text_embedding)
        if settings.guidance != 1:
            everything = torch.ones(len(text), dtype=torch.bool, device=text.device)
            null = self.condition(text, text_mask, text_embedding, everything)
        scaled = sample(
            settings,
            diffusion,
            Guided(self.denoise, conditional, null, settings.guidance),
            noise.like(text_embedding.to(sampling_dtype(text_embedding))),
            noise=noise,
            clip_x0=self.config.normalisation == "standardised",
            callback=callback,
            powers=powers,
        )
        return self.to_embedding(scaled).to(text_embedding.dtype)

    def _encode_text(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text at the width and context of the transformer, and where it is valid."""
        c = self.config
        if text.is_floating_point() == (c.text_features_dim is None):
            wants = (
                "token ids [B, L]"
                if c.text_features_dim is None
                else f"features [B, L, {c.text_features_dim}]"
            )
            raise ValueError(
                f"DiffusionPrior: expected {wants}, got {text.dtype} of shape {tuple(text.shape)}"
            )
        if c.vocab_size is not None:
            ids, mask = fit_to_context(text, mask, c.context, c.vocab_size, "DiffusionPrior")
            return self.text_enc_proj(ids), mask
        if text.shape[1] > c.context:
            raise ValueError(f"DiffusionPrior: the context is {c.context} positions, got {text.shape[1]}")
        text, mask = pad_to_context(text, mask, c.context)
        return self.text_enc_proj(text), mask

    def _add_null(self) -> None:
        c = self.config
        self.given_null: NullText | None = None
        if c.null_text == "given":
            assert c.text_features_dim is not None
            self.given_null = NullText(c.context, c.text_features_dim, c.embedding_dim, learned=False)
            return
        self.null_text = nn.Parameter(torch.empty(1, c.context, c.width))
        self.null_text_embedding = nn.Parameter(torch.empty(1, c.width))

    def _check(self, name: str, embedding: Tensor) -> None:
        expected, got = self.config.embedding_dim, embedding.shape[-1]
        if got != expected:
            raise ValueError(f"DiffusionPrior: expected {name} of width {expected}, got {got}")


def _causal_mask(valid: Bool[Tensor, "B context"]) -> Bool[Tensor, "B 1 n n"]:
    """True where a query may attend: earlier or equal positions that are not padding.

    Padding attends to itself: a row that may attend nowhere would be NaN.  Nothing reads those rows.
    """
    length = valid.shape[1] + EXTRA_TOKENS
    keys = F.pad(valid, (0, EXTRA_TOKENS), value=True)[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=valid.device)
    return ((keys & causal) | itself)[:, None]
