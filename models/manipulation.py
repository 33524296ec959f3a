"""Manipulating images through the decoder's latent (z, x_T) (2204.06125, section 3).

z is the image's CLIP embedding, x_T the noise from which DDIM comes back to the image; together they
describe it almost completely.  n samples, d embedding width, L text length, S the decoder's side.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.cascade import UnCLIP
from models.checks import check_finite
from models.diffusion.samplers import ddim, ddim_invert

# Beyond this cosine the two directions are one, and sin(angle) has no digits left.
PARALLEL = 1 - 1e-6


def slerp(
    a: Float[Tensor, " n *shape"], b: Float[Tensor, " n *shape"], fraction: float
) -> Float[Tensor, " n *shape"]:
    """Spherical interpolation of each sample, all its elements one vector: `a` at 0, `b` at 1.

    For embeddings and for noise alike (section 3.2): a straight line between two draws of noise passes
    through what no normal draw looks like.  Opposite vectors have no shortest way between them: ValueError.

        >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])
    """
    u, v = a.flatten(1), b.flatten(1)
    cosine = F.cosine_similarity(u, v, dim=1)
    if bool((cosine < -PARALLEL).any()):
        raise ValueError("slerp: expected vectors that are not opposite; there is no one way between them")
    angle = torch.acos(cosine.clamp(-1, 1))[:, None]
    sine = torch.where(angle > 0, torch.sin(angle), torch.ones_like(angle))
    straight = (cosine > PARALLEL)[:, None]
    from_a = torch.where(
        straight, torch.full_like(angle, 1 - fraction), torch.sin((1 - fraction) * angle) / sine
    )
    from_b = torch.where(straight, torch.full_like(angle, fraction), torch.sin(fraction * angle) / sine)
    return (from_a * u + from_b * v).reshape(a.shape)


@torch.no_grad()
def invert(
    model: UnCLIP,
    images_m11: Float[Tensor, "n 3 S S"],
    image_embedding: Float[Tensor, "n d"],
    text_tokens: Int[Tensor, "n L"],
    text_mask: Bool[Tensor, "n L"],
    *,
    steps: int | str,
) -> Float[Tensor, "n 3 S S"]:
    """x_T of images in [-1, 1] at the decoder's size, by DDIM inversion without guidance.

    Raises `ValueError` on numbers that are not finite, as `reconstruct` does.
    """
    check_finite("images_m11", images_m11)
    denoise = model.guided_decoder(image_embedding, text_tokens, text_mask, 1.0)
    return ddim_invert(model.decoder_diffusion.spaced(steps), denoise, images_m11)


@torch.no_grad()
def reconstruct(
    model: UnCLIP,
    x_T: Float[Tensor, "n 3 S S"],
    image_embedding: Float[Tensor, "n d"],
    text_tokens: Int[Tensor, "n L"],
    text_mask: Bool[Tensor, "n L"],
    *,
    steps: int | str,
) -> Float[Tensor, "n 3 S S"]:
    """The images that `invert` with as many steps made `x_T` of, nearly: nothing is clipped on the way."""
    check_finite("x_T", x_T)
    denoise = model.guided_decoder(image_embedding, text_tokens, text_mask, 1.0)
    return ddim(model.decoder_diffusion.spaced(steps), denoise, x_T, clip_x0=False).clamp(-1, 1)


def interpolation_path(
    a: Float[Tensor, " 1 *shape"], b: Float[Tensor, " 1 *shape"], fractions: Sequence[float]
) -> Float[Tensor, " _points *shape"]:
    """Points on the way from `a` to `b`, one a fraction, for embeddings and for x_T (section 3.2)."""
    return torch.cat([slerp(a, b, fraction) for fraction in fractions])


def arithmetic_path(
    image_embedding: Float[Tensor, "1 d"],
    text_embedding: Float[Tensor, "1 d"],
    baseline: Float[Tensor, "1 d"],
    amounts: Sequence[float],
) -> Float[Tensor, "_points d"]:
    """norm(z_i + amount * (z_t - z_t0)), one an amount: "queen = king - man + woman" on embeddings.

    Not in unCLIP, whose text differences turn by an angle whatever the texts' distance; here texts that
    differ little change little, and amounts below 0 go the other way.  Raises as `text_diff_path`.

        >>> a, b = torch.eye(2)[:1], torch.eye(2)[1:]
        >>> arithmetic_path(a, b, a, (0.0, 1.0))
        tensor([[1., 0.],
                [0., 1.]])
    """
    difference = _difference(text_embedding, baseline, "arithmetic_path")
    return F.normalize(torch.cat([image_embedding + amount * difference for amount in amounts]), dim=-1)


def text_diff_path(
    image_embedding: Float[Tensor, "1 d"],
    text_embedding: Float[Tensor, "1 d"],
    baseline: Float[Tensor, "1 d"],
    fractions: Sequence[float],
) -> Float[Tensor, "_points d"]:
    """Embeddings from the image towards what tells `text_embedding` from `baseline` (section 3.3).

    z_theta = slerp(z_i, norm(z_t - z_t0), theta); the paper goes up to a theta of 0.25 to 0.5.
    Raises `ValueError` where both texts have one embedding.
    """
    difference = _difference(text_embedding, baseline, "text_diff_path")
    return interpolation_path(image_embedding, F.normalize(difference, dim=-1), fractions)


def _difference(text_embedding: Tensor, baseline: Tensor, where: str) -> Tensor:
    difference = text_embedding - baseline
    if float(difference.norm()) < 1e-6:
        raise ValueError(f"{where}: expected two texts that differ, got two of equal embedding")
    return difference
