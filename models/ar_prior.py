"""Autoregressive prior of unCLIP (2204.06125, section 2.2): from a caption and its CLIP embedding to the
image embedding's principal components, one token after the other.

B batch, L text length, d embedding width, W decoder width, K components, P = caption's context + 2.
"""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config import ARPriorConfig
from models.diffusion.noise import SampleNoise
from models.diffusion.samplers import Callback
from models.embedding_codec import EmbeddingCodec
from models.prior import embedding_scale
from models.sampling import StageSampling
from models.text_transformer import TextTransformer
from models.transformer import LayerCache, Transformer


@final
class AutoregressivePrior(nn.Module):
    """Causal transformer over [encoded caption, text embedding, dot product, token 1 .. token K - 1].

    The dot product z_i . z_t of image and text embedding, quantised, tells the network how well the two agree
    (the diffusion prior has no such input); when sampling it is drawn from the top half of what training saw.

    `context` counts the decoder's own positions, K + 1 of them used: Table 3's 384 would not hold a caption
    of 256 and 319 components besides.  The encoded caption goes before them with the positions that the text
    encoder gave it.  An empty caption is the null one, as in the decoder.
    """

    def __init__(self, config: ARPriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.text = TextTransformer(config.text)
        self.text_proj = nn.Linear(config.text_width, width)
        self.text_embedding_proj = nn.Linear(config.embedding_dim, width)
        self.dot_embedding = nn.Embedding(config.buckets, width)
        self.token_embedding = nn.Embedding(config.buckets, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context, width))
        self.null_text_embedding = nn.Parameter(torch.empty(width))
        self.null_dot = nn.Parameter(torch.empty(width))
        self.transformer = Transformer(width, config.layers, config.heads, config.dropout)
        self.final_ln = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, config.buckets)
        self.codec = EmbeddingCodec(config.embedding_dim, config.components, config.buckets)
        tables = (self.dot_embedding.weight, self.token_embedding.weight, self.positional_embedding)
        for parameter in (*tables, self.null_text_embedding, self.null_dot):
            nn.init.normal_(parameter, std=0.02)
        # Untrained, it finds every bucket equally likely.
        nn.init.zeros_(self.to_logits.weight)
        nn.init.zeros_(self.to_logits.bias)

    def forward(
        self,
        image_embedding: Float[Tensor, "B d"],
        text: Int[Tensor, "B L"],
        text_mask: Bool[Tensor, "B L"],
        text_embedding: Float[Tensor, "B d"],
        drop: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B K"]:
        """-log p of each token of the image embedding given those before it and the text, nats.

        Where `drop` is True the caption, its embedding and the dot product, which is of the text as well, are
        replaced by nulls.  Raises `ValueError` on a wrong embedding width or a prompt past the context.
        """
        tokens = self.codec.encode(image_embedding)
        dot = self.codec.encode_dot(image_embedding, text_embedding)
        logits = self.logits(tokens, self.prefix(text, text_mask, text_embedding, dot, drop))
        return F.cross_entropy(logits.transpose(1, 2).float(), tokens, reduction="none")

    def prefix(
        self,
        text: Int[Tensor, "B L"],
        text_mask: Bool[Tensor, "B L"],
        text_embedding: Float[Tensor, "B d"],
        dot: Int[Tensor, " B"],
        drop: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B P W"]:
        """What stands before the first token: the encoded caption, the text embedding, the dot product."""
        if text_embedding.shape[1] != self.config.embedding_dim:
            raise ValueError(
                f"AutoregressivePrior: expected text_embedding of width {self.config.embedding_dim}, got "
                f"{text_embedding.shape[1]}"
            )
        scaled = text_embedding * embedding_scale(self.config.embedding_dim)
        pooled, agreement = self.text_embedding_proj(scaled), self.dot_embedding(dot)
        if drop is not None:
            text_mask = text_mask & ~drop[:, None]
            pooled = torch.where(drop[:, None], self.null_text_embedding.to(pooled.dtype), pooled)
            agreement = torch.where(drop[:, None], self.null_dot.to(agreement.dtype), agreement)
        caption = self.text_proj(self.text(text, text_mask))
        own = torch.stack([pooled, agreement.to(pooled.dtype)], dim=1) + self.positional_embedding[:2]
        return torch.cat([caption, own], dim=1)

    def logits(
        self, tokens: Int[Tensor, "B K"], prefix: Float[Tensor, "B P W"]
    ) -> Float[Tensor, "B K buckets"]:
        """Of every token given those before it; the last token is not looked at."""
        sequence = torch.cat([prefix, self._embed(tokens[:, :-1], 0)], dim=1)
        return self._read(sequence, tokens.shape[1])

    @torch.no_grad()
    def sample_tokens(
        self, prefix: Float[Tensor, "B P W"], uniform: Float[Tensor, "n K"], *, guidance: float = 1.0
    ) -> Int[Tensor, "n K"]:
        """Draw tokens one by one, each by the inverse of its distribution function at its uniform number.

        With `guidance` other than 1 the second half of the prefixes are the nulls of the first, B = 2n, and
        the logits are null + guidance * (conditional - null).
        """
        count, components = uniform.shape
        storage = self.transformer.cache_storage(prefix, prefix.shape[1] + components - 1)
        caches = self.transformer.caches(storage)
        tokens = torch.empty(count, components, dtype=torch.long, device=prefix.device)
        given = prefix
        for position in range(components):
            logits = self._read(given, 1, caches)[:, 0].double()
            if len(prefix) > count:
                conditional, null = logits.chunk(2)
                logits = null + guidance * (conditional - null)
            cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
            drawn = (cumulative <= uniform[:, position, None]).sum(dim=-1)
            # The last cumulative probability is 1 but for rounding.
            tokens[:, position] = drawn.clamp(max=self.config.buckets - 1)
            if position + 1 < components:
                last = tokens[:, position, None].repeat(len(prefix) // count, 1)
                given = self._embed(last, position)
        return tokens

    @torch.no_grad()
    def sample(
        self,
        text: Int[Tensor, "B L"],
        text_mask: Bool[Tensor, "B L"],
        text_embedding: Float[Tensor, "B d"],
        *,
        settings: StageSampling,
        noise: SampleNoise,
        callback: Callback | None = None,
    ) -> Float[Tensor, "B d"]:
        """Image embeddings of unit norm.  Of the settings only guidance says anything to a prior that has no
        steps to space."""
        uniform = noise.uniform((1 + self.config.components,), device=text.device)
        dot = self.codec.top_half(uniform[:, 0])
        prefix = self.prefix(text, text_mask, text_embedding, dot)
        if settings.guidance != 1:
            everything = torch.ones(len(text), dtype=torch.bool, device=text.device)
            null = self.prefix(text, text_mask, text_embedding, dot, everything)
            prefix = torch.cat([prefix, null])
        tokens = self.sample_tokens(prefix, uniform[:, 1:], guidance=settings.guidance)
        embedding = F.normalize(self.codec.decode(tokens), dim=-1)
        if callback is not None:
            callback(1, 1, embedding)
        return embedding

    def _embed(self, tokens: Int[Tensor, "B n"], first: int) -> Float[Tensor, "B n W"]:
        """Tokens `first`, `first + 1`, ...; the first of all stands behind text embedding and dot product."""
        positions = self.positional_embedding[2 + first : 2 + first + tokens.shape[1]]
        return self.token_embedding(tokens) + positions

    def _read(
        self, x: Float[Tensor, "B n W"], last: int, caches: Sequence[LayerCache] | None = None
    ) -> Float[Tensor, "B last buckets"]:
        """Logits of what follows the last positions of `x`, which goes on after what `caches` hold."""
        mask = None
        if x.shape[1] > 1:
            mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()[None, None]
        hidden = self.transformer(x, mask, caches)
        return self.to_logits(self.final_ln(hidden[:, -last:]))
