"""The contract of an encoder: images and captions to vectors, with an identity that travels with them.

Equal inputs give equal vectors whatever their neighbours in a batch: on the CPU every image and caption is
its own forward pass (for the demo's small towers that is also the fastest way), on an accelerator every pass
has the same shape (`in_passes`), so that the same kernels run for a full batch and for the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]
T = TypeVar("T")


class Encoder(Protocol):
    """Images and captions to float32 vectors.

    identity: name, sha256 of the weights, preprocessing, tokenizer, dimensions, whether vectors have unit
    norm, precision.  Two artifacts may be used together only when their identities are equal.
    """

    @property
    def identity(self) -> dict[str, Any]: ...

    def encode_images(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]], *, batch: int | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Vectors of RGB images of any size; `batch` overrides the encoder's own (out of memory)."""
        ...

    def encode_texts(self, captions: Sequence[str], *, batch: int | None = None) -> Float[np.ndarray, "n e"]:
        """Vectors of captions; what goes beyond the text tower's context is cut, as in its training."""
        ...


def in_passes(
    items: Sequence[T], rows: int, width: int, encode: Callable[[list[T]], Float[np.ndarray, "rows width"]]
) -> Float[np.ndarray, "n width"]:
    """`encode` over `items` in passes of exactly `rows`, the last filled up with its first item."""
    vectors = np.zeros((len(items), width), np.float32)
    for start in range(0, len(items), rows):
        part = list(items[start : start + rows])
        filled = part + part[:1] * (rows - len(part))
        vectors[start : start + len(part)] = encode(filled)[: len(part)]
    return vectors


def center_crop(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Shorter side to `size` (bicubic, antialiased), then the middle square: CLIP's preprocessing."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = size / min(height, width)
    # Rounding must never leave a side a pixel short.
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    picture = Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC, reducing_gap=3.0)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))
