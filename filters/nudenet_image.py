"""Bare body parts by NudeNet's detector (YOLOv8 nano, 18 classes).

Package ``nudenet`` is AGPL-3.0: the extra `nudenet`, never installed unless asked for by name.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from filters.scorer import Samples, ScoreSpec
from filters.weights import WeightsError, package_file

WEIGHTS_SHA256 = "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"
EXPLICIT = frozenset(
    {
        "ANUS_EXPOSED",
        "BUTTOCKS_EXPOSED",
        "FEMALE_BREAST_EXPOSED",
        "FEMALE_GENITALIA_EXPOSED",
        "MALE_GENITALIA_EXPOSED",
    }
)


class NudeNetImage:
    """``nudenet_exposed`` in [0, 1]: confidence of the surest exposed part that is explicit; 0 for none.

    The detector itself leaves out what it is less than 0.2 sure of.
    """

    name = "nudenet_image"
    version = 1
    needs = frozenset({"images"})
    specs = (
        ScoreSpec(
            name="nudenet_exposed",
            low=0.0,
            high=1.0,
            worse="high",
            description="surest explicit part, NudeNet",
        ),
    )

    def __init__(self) -> None:
        try:
            from nudenet import NudeDetector
        except ImportError as error:
            raise WeightsError(
                "package 'nudenet' is not installed; it is AGPL-3.0 and an extra: install unclip[nudenet]"
            ) from error
        package_file("nudenet", "320n.onnx", "nudenet", sha256=WEIGHTS_SHA256)
        self._detector = NudeDetector(providers=["CPUExecutionProvider"])

    def identity(self) -> dict[str, Any]:
        return {"weights": WEIGHTS_SHA256}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.images is not None, "checked_scores checks needs"
        scores = [self._exposed(image) for image in samples.images]
        return {"nudenet_exposed": np.array(scores, dtype=np.float32)}

    def _exposed(self, image: UInt8[np.ndarray, "h w 3"]) -> float:
        # One image a pass: its score does not depend on its neighbours.  The detector reads BGR.
        found = self._detector.detect(np.ascontiguousarray(image[:, :, ::-1]))
        sure = [part["score"] for part in found if part["class"] in EXPLICIT]
        return min(max(sure, default=0.0), 1.0)
