"""CLIP guidance with an encoder that knows noise (GLIDE, 2112.10741, section 2.4).

An image encoder is trained on x_t, told t, so that its embedding matches the frozen text (or image)
embedding of CLIP; the gradient of their dot product then leads a sampler towards the caption:

    losses = noised_clip_loss(encoder, diffusion.q_sample(x0, t, noise), t, text_embedding)
    images = ddpm(process, denoise, x_T, noise=noise, guide=clip_guide(encoder, text_embedding, scale=2.0))

B batch, d embedding width, S the encoder's side in pixels.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.clip_heads import MAX_LOGIT_SCALE, clip_loss
from models.config import NoisedClipConfig
from models.diffusion.samplers import Guide
from models.layers import timestep_embedding
from models.transformer import Transformer


@final
class NoisedClip(nn.Module):
    """Vision transformer on x_t.  The paper does not say how it is told t: here the class token, whose
    output is the embedding, is made from it."""

    def __init__(self, config: NoisedClipConfig) -> None:
        super().__init__()
        self.config = config
        width, patches = config.width, (config.image_size // config.patch_size) ** 2
        self.patches = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + patches, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.layers, config.heads)
        self.ln_post = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.embedding_dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.positional_embedding, std=width**-0.5)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """Inverse temperature; starts at 1 / 0.07 and never exceeds 100, as CLIP's."""
        return self.log_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    def forward(self, x_t: Float[Tensor, "B 3 S S"], t: Int[Tensor, " B"]) -> Float[Tensor, "B d"]:
        """Unit-norm embeddings.  `t` are original timesteps.  Raises `ValueError` on another side than the
        configuration's."""
        side = self.config.image_size
        if x_t.shape[2:] != (side, side):
            raise ValueError(f"NoisedClip: expected images of {side}x{side}, got {tuple(x_t.shape[2:])}")
        time = self.time_embed(timestep_embedding(t, self.config.width).to(x_t.dtype))
        patches = self.patches(x_t).flatten(2).transpose(1, 2)
        sequence = torch.cat([time[:, None], patches], dim=1) + self.positional_embedding
        hidden = self.transformer(self.ln_pre(sequence))
        return F.normalize(self.projection(self.ln_post(hidden[:, 0])), dim=-1)


def noised_clip_loss(
    encoder: NoisedClip,
    x_t: Float[Tensor, "B 3 S S"],
    t: Int[Tensor, " B"],
    embedding: Float[Tensor, "B d"],
    weight: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """CLIP's contrastive loss of noised images against frozen unit-norm embeddings, of texts or of the same
    images; row i matches row i.  Training on both kinds is the sum of two."""
    return clip_loss(encoder(x_t, t), embedding, encoder.logit_scale, weight)


def clip_guide(encoder: NoisedClip, embedding: Float[Tensor, "B d"], scale: float) -> Guide:
    """scale * logit_scale * gradient in x_t of f(x_t, t) . g(c), for `ddpm` and `ddim` (section 2.4).

    `embedding`: unit norm, one row a sample.  The published code multiplies by the inverse
    temperature, which makes the dot product the log probability, but for a constant, that the encoder was
    trained for; the paper's formula leaves it out.
    """

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            similarity = encoder.logit_scale.detach() * (encoder(x, t) * embedding).sum()
            (gradient,) = torch.autograd.grad(similarity, x)
        return scale * gradient

    return guide
