"""GantMan's five classes of images (drawings, hentai, neutral, porn, sexy), as `nsfw-detector` runs them.

The package is GPL-3.0 and needs TensorFlow: it is imported in an environment of its own, never in ours.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from filters.scorer import Direction, Samples, ScoreSpec
from filters.weights import WeightsError, verify_sha256

SOURCE = "the releases of GantMan/nsfw_model (nsfw_mobilenet2.224x224.h5 or nsfw.299x299.h5)"
_CLASSES: dict[str, tuple[Direction, str]] = {
    "drawings": ("neither", "harmless drawings"),
    "hentai": ("high", "pornographic drawings"),
    "neutral": ("low", "harmless photographs"),
    "porn": ("high", "pornographic photographs"),
    "sexy": ("high", "suggestive photographs"),
}
# A layer that is Python code, and one that fetches a network: neither is covered by the file's digest.
_REFUSED = ("Lambda", "KerasLayer")


class GantManImage:
    """``gantman_CLASS`` in [0, 1] for each of the five classes, which sum to 1.

    weights: a Keras .h5 file of the whole network, which no package carries.  sha256: of that file.
    One image a pass: a score does not depend on its neighbours.  Transparency lies on white here, as
    everywhere in this project; the package drops it.  Raises WeightsError where the file is missing, of
    another content, no whole network or holds code.
    """

    name = "gantman_image"
    version = 1
    needs = frozenset({"images"})
    specs = tuple(
        ScoreSpec(name=f"gantman_{name}", low=0.0, high=1.0, worse=worse, description=f"P({what}), GantMan")
        for name, (worse, what) in _CLASSES.items()
    )
    environment = "gantman"

    def __init__(self, weights: Path | str | None = None, sha256: str | None = None) -> None:
        if weights is None or sha256 is None or not Path(weights).is_file():
            raise WeightsError(
                "gantman_image: expected scorer_files: {gantman_image: {weights: FILE.h5}} and "
                "scorer_options: {gantman_image: {sha256: DIGEST}}, "
                f"got weights {weights}, sha256 {sha256}; get the file from {SOURCE}"
            )
        verify_sha256(Path(weights), sha256)
        _refuse_code(Path(weights))
        self._weights, self._sha256 = Path(weights), sha256
        self._model: Any = None

    def identity(self) -> dict[str, Any]:
        return {"weights": self._sha256}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        """Raises WeightsError outside of its environment."""
        assert samples.images is not None, "checked_scores checks needs"
        scores = np.zeros((len(samples), len(self.specs)), np.float32)
        for row, image in zip(scores, samples.images, strict=True):
            row[:] = self._classify(image)
        return {spec.name: scores[:, i] for i, spec in enumerate(self.specs)}

    def _classify(self, image: UInt8[np.ndarray, "h w 3"]) -> list[float]:
        try:
            from nsfw_detector import predict
        except ImportError as error:
            raise WeightsError(
                "gantman_image: package 'nsfw-detector' is not here; `annotate` runs this scorer in an "
                f"environment of its own, {self.environment!r}"
            ) from error
        if self._model is None:
            self._model = predict.load_model(str(self._weights))
        (classes,) = predict.classify_nd(self._model, pixels(image, self._model.input_shape[1])[None])
        # A softmax in float32 may end a rounding step above 1.
        return [min(classes[name], 1.0) for name in _CLASSES]


def pixels(image: UInt8[np.ndarray, "h w 3"], side: int) -> Float32[np.ndarray, "side side 3"]:
    """RGB uint8 to the network's input in [0, 1], as `predict.load_images`: nearest pixel, aspect lost."""
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(picture, dtype=np.float32) / 255


def _refuse_code(weights: Path) -> None:
    import h5py

    with h5py.File(weights) as file:
        config = file.attrs.get("model_config")
    if config is None:
        raise WeightsError(f"{weights}: holds no whole network (weights alone?); get one from {SOURCE}")
    layers = set[str]()
    json.loads(config, object_hook=lambda node: layers.add(str(node.get("class_name"))))
    if refused := sorted(layer for layer in layers if layer.endswith(_REFUSED)):
        raise WeightsError(f"{weights}: holds layers of code or from elsewhere ({', '.join(refused)})")
