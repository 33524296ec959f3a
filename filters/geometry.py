"""Plain facts about a sample's size: caption length in characters and words, image sides and aspect."""

import math
import unicodedata
from typing import Any

import numpy as np
from jaxtyping import Float

from filters.scorer import Samples, ScoreSpec


class CaptionGeometry:
    """Caption length after NFC and stripping: padding and decomposed accents do not count."""

    name = "caption_geometry"
    version = 1
    needs = frozenset({"captions"})
    specs = (
        ScoreSpec(
            name="caption_length",
            low=0,
            high=math.inf,
            worse="neither",
            description="characters of the caption",
        ),
        ScoreSpec(
            name="caption_words",
            low=0,
            high=math.inf,
            worse="neither",
            description="words between white space",
        ),
    )

    def identity(self) -> dict[str, Any]:
        return {}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.captions is not None, "checked_scores checks needs"
        captions = [unicodedata.normalize("NFC", caption).strip() for caption in samples.captions]
        return {
            "caption_length": np.array([len(caption) for caption in captions], dtype=np.float32),
            "caption_words": np.array([len(caption.split()) for caption in captions], dtype=np.float32),
        }


class ImageGeometry:
    """Sides of the image as stored (after any resize at acquisition), in pixels, and its aspect."""

    name = "image_geometry"
    version = 1
    needs = frozenset({"images"})
    specs = (
        ScoreSpec(name="image_width", low=1, high=math.inf, worse="neither", description="width in pixels"),
        ScoreSpec(name="image_height", low=1, high=math.inf, worse="neither", description="height in pixels"),
        ScoreSpec(
            name="image_min_side", low=1, high=math.inf, worse="low", description="shorter side in pixels"
        ),
        ScoreSpec(
            name="image_aspect",
            low=1,
            high=math.inf,
            worse="high",
            description="longer side over shorter side",
        ),
    )

    def identity(self) -> dict[str, Any]:
        return {}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.images is not None, "checked_scores checks needs"
        sides = np.array([image.shape[:2] for image in samples.images], dtype=np.float32).reshape(-1, 2)
        height, width = sides[:, 0], sides[:, 1]
        return {
            "image_width": width,
            "image_height": height,
            "image_min_side": np.minimum(width, height),
            "image_aspect": np.maximum(width, height) / np.minimum(width, height),
        }
