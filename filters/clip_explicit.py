"""Explicit images from CLIP embeddings: LAION's AutoKeras heads, rebuilt without TensorFlow.

github.com/LAION-AI/CLIP-based-NSFW-Detector (MIT).  Networks: normalisation, then dense layers with ReLU and
a sigmoid at the end: 768 -> 64 -> 512 -> 256 -> 1 for ViT-L/14, 512 -> 32 -> 32 -> 1 for ViT-B/32.

AutoKeras took a few of the inputs for categories (5 of 768, 3 of 512) and looks their values up in a
dictionary that was saved empty: whatever the embedding holds there, the network sees 0.  So does this one.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from filters.fitted_on import clip_model
from filters.scorer import Samples, ScoreSpec
from filters.tensor_bundle import read_saved_model
from filters.weights import released_file

_REPOSITORY = "https://github.com/LAION-AI/CLIP-based-NSFW-Detector"
RELEASES = {
    "vit_l_14": (
        "clip_autokeras_binary_nsfw_vit_l_14.zip",
        _REPOSITORY,
        "905520bb0336accc73ee282c605d926aef90cf14248889d44b9cee50eef71f8a",
    ),
    "vit_b_32": (
        "clip_autokeras_nsfw_vit_b_32.zip",
        _REPOSITORY,
        "78715ab9d64485167e8c9ade3b8e6761a17a16c24d114bd47431ac1dab46462b",
    ),
}
_CATEGORICAL = re.compile(r"/encoding_layers/(\d+)/token_counts/")
_MIN_DEVIATION = 1e-7  # Keras' epsilon


class ClipExplicit:
    """``clip_explicit``: probability that the picture is explicit, by LAION's head.

    model: `vit_l_14` or `vit_b_32`, the CLIP whose embeddings come.  weights: path of LAION's zip; None looks
    in the folder of UNCLIP_WEIGHTS.
    """

    name = "clip_explicit"
    version = 1
    needs = frozenset({"image_embeddings"})
    specs = (
        ScoreSpec(
            name="clip_explicit",
            low=0.0,
            high=1.0,
            worse="high",
            description="P(explicit), LAION's CLIP head",
        ),
    )

    def __init__(self, model: str = "vit_l_14", weights: Path | str | None = None) -> None:
        self.encoder = clip_model(self.name, model)
        self.network = KerasHead.from_saved_model(released_file(weights, *RELEASES[model]))
        self._sha256 = RELEASES[model][2]

    def identity(self) -> dict[str, Any]:
        return {"weights": self._sha256}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.image_embeddings is not None, "checked_scores checks needs"
        rows = self.encoder.unit_rows(samples.image_embeddings, self.name)
        return {"clip_explicit": self.network(rows).astype(np.float32)}


class KerasHead:
    """Normalisation and dense layers, in float64: a row's score does not depend on its batch.

    blind: inputs that the network sees as 0.
    """

    def __init__(
        self,
        mean: Float[np.ndarray, " d"],
        variance: Float[np.ndarray, " d"],
        layers: list[tuple[np.ndarray, np.ndarray]],
        blind: list[int],
    ) -> None:
        self.mean, self.deviation = mean, np.maximum(np.sqrt(variance), _MIN_DEVIATION)
        self.layers, self.blind = layers, blind

    def __call__(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Probabilities in [0, 1]."""
        x = rows.astype(np.float64)
        x[:, self.blind] = 0
        x = (x - self.mean) / self.deviation
        for kernel, bias in self.layers[:-1]:
            x = np.maximum(x @ kernel + bias, 0)
        kernel, bias = self.layers[-1]
        # Through tanh: exp of a large logit would overflow.
        return 0.5 * (1 + np.tanh(0.5 * (x @ kernel + bias)[:, 0]))

    @classmethod
    def from_saved_model(cls, path: Path) -> "KerasHead":
        """Reads Keras' numbered layers: the one with a mean normalises, those with a kernel are dense."""
        variables, names = read_saved_model(path)
        numbers = range(sum(name.endswith("/bias") for name in variables) + 2)
        layers = [f"layer_with_weights-{i}" for i in numbers]
        (normalise,) = [layer for layer in layers if f"{layer}/mean" in variables]
        dense = [layer for layer in layers if f"{layer}/kernel" in variables]
        weights = {name: values.astype(np.float64) for name, values in variables.items()}
        return cls(
            mean=weights[f"{normalise}/mean"],
            variance=weights[f"{normalise}/variance"],
            layers=[(weights[f"{layer}/kernel"], weights[f"{layer}/bias"]) for layer in dense],
            blind=sorted({int(match[1]) for name in names if (match := _CATEGORICAL.search(name))}),
        )
