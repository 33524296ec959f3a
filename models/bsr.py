"""The degradation pipeline of blind super-resolution (BSRGAN, 2103.14006), one image at a time.

Images are float32 arrays [height, width, 3] in [0, 1].  All randomness comes from one seeded generator, and
heights stay heights: the published functions swap the sides of images that are not square and mix two global
generators.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy.random import Generator

Image = Float32[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BsrSettings:
    """Ranges of the random degradations.  The defaults are those of the light variant used for latent
    diffusion (2112.10752); `noise_levels=(2, 25), jpeg_quality=(30, 95), blur_strength=1.0` is nearer to
    BSRGAN's own, which blurs twice, with larger kernels than those of 3 to 9 px here."""

    noise_levels: tuple[int, int] = (1, 2)
    """Standard deviation of the noise, in 255ths, inclusive."""
    jpeg_quality: tuple[int, int] = (80, 95)
    blur_strength: float = 0.25
    """Factor on the widths of the blur kernels."""


def degrade(image: Image, scale: int, seed: int, settings: BsrSettings) -> Float32[np.ndarray, "h w 3"]:
    """Degrade `image` and shrink it by `scale`, exactly; the same seed gives the same bytes.

    Blur, a random resize, the exact resize, noise and (9 in 10) JPEG in random order, the exact resize after
    the random one; a JPEG at the end always (2103.14006, section 3.5).
    """
    rng = np.random.default_rng(seed)
    height, width = image.shape[0] // scale, image.shape[1] // scale
    if scale == 4 and rng.random() < 0.25:
        # BSRGAN degrades a quarter of the images from half their size.
        image = _resize(image, image.shape[0] // 2, image.shape[1] // 2, rng)
    blur_scale = max(2, scale)
    steps: list[Callable[[Image], Image]] = [
        lambda x: _blur(x, blur_scale, settings.blur_strength, rng),
        lambda x: _random_downsample(x, blur_scale, rng),
        lambda x: _resize(x, height, width, rng),
        lambda x: _noise(x, settings.noise_levels, rng),
        lambda x: _jpeg(x, settings.jpeg_quality, rng) if rng.random() < 0.9 else x,
    ]
    order = [int(i) for i in rng.permutation(len(steps))]
    first, second = sorted((order.index(1), order.index(2)))
    order[first], order[second] = 1, 2
    for i in order:
        image = np.clip(steps[i](image), 0.0, 1.0).astype(np.float32)
    if image.shape[:2] != (height, width):
        image = _resize(image, height, width, rng)
    return _jpeg(image, settings.jpeg_quality, rng)


def _blur(image: Image, scale: int, strength: float, rng: Generator) -> Image:
    """Gaussian blur, half the time stretched along a random direction."""
    import cv2

    size = 2 * int(rng.integers(0, 4)) + 3
    if rng.random() < 0.5:
        widths = strength * (4 + scale) * rng.random(2)
        kernel = _gaussian_kernel(size, (float(widths[0]), float(widths[1])), float(rng.random()) * math.pi)
    else:
        width = (0.1 + strength * (2 + 0.2 * scale) * rng.random()) ** 2
        kernel = _gaussian_kernel(size, (width, width), 0.0)
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def _gaussian_kernel(size: int, variances: tuple[float, float], angle: float) -> Float32[np.ndarray, "k k"]:
    """Normalised Gaussian with the two `variances` (pixels squared) along axes turned by `angle`
    (radians)."""
    y, x = np.mgrid[:size, :size] - size // 2
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    # A variance near 0 is the identity: the bound keeps the division finite.
    kernel = np.exp(-0.5 * (along**2 / max(variances[0], 1e-3) + across**2 / max(variances[1], 1e-3)))
    return (kernel / kernel.sum()).astype(np.float32)


def _random_downsample(image: Image, scale: int, rng: Generator) -> Image:
    """Shrink by a random factor in [1, 2 scale] (8 in 10), or blur widely and keep every `scale`-th pixel."""
    import cv2

    if rng.random() < 0.8:
        factor = 1 + float(rng.random()) * (2 * scale - 1)
        return _resize(
            image, max(1, round(image.shape[0] / factor)), max(1, round(image.shape[1] / factor)), rng
        )
    sigma = 0.1 + float(rng.random()) * (0.6 * scale - 0.1)
    wide = cv2.filter2D(
        image, -1, _gaussian_kernel(25, (sigma**2, sigma**2), 0.0), borderType=cv2.BORDER_REFLECT
    )
    return np.ascontiguousarray(wide[::scale, ::scale])


def _resize(image: Image, height: int, width: int, rng: Generator) -> Image:
    import cv2

    method = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)[int(rng.integers(3))]
    # OpenCV takes (width, height).
    return np.clip(cv2.resize(image, (width, height), interpolation=method), 0.0, 1.0)


def _noise(image: Image, levels: tuple[int, int], rng: Generator) -> Image:
    """Gaussian noise: independent per channel (4 in 10), grey (4 in 10), or with correlated channels."""
    sigma = float(rng.integers(levels[0], levels[1] + 1)) / 255
    kind = rng.random()
    shape = image.shape if kind < 0.4 or kind >= 0.8 else (*image.shape[:2], 1)
    noise = rng.standard_normal(shape)
    if kind >= 0.8:
        # A random mixing matrix of unit rows keeps the level and correlates the channels.
        mix = rng.standard_normal((3, 3))
        noise = noise @ (mix / np.linalg.norm(mix, axis=1, keepdims=True)).T
    return (image + sigma * noise).astype(np.float32)


def _jpeg(image: Image, quality: tuple[int, int], rng: Generator) -> Image:
    import cv2

    level = int(rng.integers(quality[0], quality[1] + 1))
    pixels = np.round(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    done, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, level])
    if not done:
        raise RuntimeError(f"bsr: OpenCV could not encode a JPEG of shape {pixels.shape} at quality {level}")
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if decoded is None:
        raise RuntimeError(f"bsr: OpenCV could not decode its own JPEG of shape {pixels.shape}")
    return decoded[..., ::-1].astype(np.float32) / 255
