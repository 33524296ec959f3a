"""img2dataset's resize modes, with its arithmetic: equal settings give equal pixels."""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.acquire.config import ImageConfig

INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "bilinear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
    "lanczos4": cv2.INTER_LANCZOS4,
}


def resize(image: np.ndarray, config: ImageConfig, original: tuple[int, int] | None = None) -> np.ndarray:
    """img2dataset's resize modes; returns the array itself where nothing is to be done.

    `original` is the (height, width) that decides, where the image was decoded at a smaller size.
    """
    height, width = original or image.shape[:2]
    if not is_resized(width, height, config):
        return image
    shape = resized_shape(width, height, config)
    interpolation = (
        config.downscale_interpolation
        if _reference(width, height, config) > config.size
        else config.upscale_interpolation
    )
    if shape != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, shape, interpolation=INTERPOLATION[interpolation])
    if config.mode == "center_crop":
        return _center_crop(image, config.size)
    return _pad_white(image, config.size) if config.mode == "border" else image


def _reference(width: int, height: int, config: ImageConfig) -> int:
    """The side that becomes `size`."""
    shorter = config.mode in ("keep_ratio", "center_crop")
    return min(width, height) if shorter else max(width, height)


def is_resized(width: int, height: int, config: ImageConfig) -> bool:
    """Whether an image of this size is resized (and then cropped or padded) at all."""
    if config.mode == "no":
        return False
    return not config.only_if_bigger or _reference(width, height, config) > config.size


def resized_shape(width: int, height: int, config: ImageConfig) -> tuple[int, int]:
    """Width and height after resizing, before anything is cropped or padded."""
    scale = config.size / _reference(width, height, config)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _center_crop(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def _pad_white(image: np.ndarray, size: int) -> np.ndarray:
    down, right = size - image.shape[0], size - image.shape[1]
    top, left = down // 2, right // 2
    return cv2.copyMakeBorder(
        image, top, down - top, left, right - left, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
