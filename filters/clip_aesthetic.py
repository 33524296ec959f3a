"""How much people liked pictures like this one: LAION's linear aesthetic heads on CLIP embeddings.

github.com/LAION-AI/aesthetic-predictor (MIT): a linear layer fitted to ratings from 1 to 10 of the Simulacra
captions.  It predicts taste, its raters' taste; it says nothing of safety.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from filters.fitted_on import clip_model
from filters.scorer import Samples, ScoreSpec
from filters.weights import released_file

_REPOSITORY = "https://github.com/LAION-AI/aesthetic-predictor"
RELEASES = {
    "vit_l_14": (
        "aesthetic_sa_0_4_vit_l_14_linear.pth",
        f"{_REPOSITORY}, sa_0_4_vit_l_14_linear.pth",
        "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
    ),
    "vit_b_32": (
        "aesthetic_sa_0_4_vit_b_32_linear.pth",
        f"{_REPOSITORY}, sa_0_4_vit_b_32_linear.pth",
        "c7b14cead230694acc7b9447974d3cad78003c72da032e402a303b6c2429e85f",
    ),
}


class ClipAesthetic:
    """``clip_aesthetic``: predicted rating; 1 to 10 was asked for, a linear layer may end outside.

    model: `vit_l_14` or `vit_b_32`, the CLIP whose embeddings come.  weights: path of LAION's file; None
    looks in the folder of UNCLIP_WEIGHTS.
    """

    name = "clip_aesthetic"
    version = 1
    needs = frozenset({"image_embeddings"})
    # Without the weights any number can be a rating; a head that is loaded has a narrower range.
    specs: tuple[ScoreSpec, ...] = (
        ScoreSpec(
            name="clip_aesthetic",
            low=-math.inf,
            high=math.inf,
            worse="low",
            description="predicted rating, asked for from 1 to 10",
        ),
    )

    def __init__(self, model: str = "vit_l_14", weights: Path | str | None = None) -> None:
        import torch

        self.encoder = clip_model(self.name, model)
        path = released_file(weights, *RELEASES[model])
        state = torch.load(path, weights_only=True, map_location="cpu")
        self._weight = state["weight"].numpy().astype(np.float64)[0]
        self._bias = float(state["bias"][0])
        self._sha256 = RELEASES[model][2]
        # Of unit vectors: no score lies further from the bias than the weight is long.
        reach = float(np.linalg.norm(self._weight))
        (spec,) = type(self).specs
        self.specs = (replace(spec, low=self._bias - reach - 1e-3, high=self._bias + reach + 1e-3),)

    def identity(self) -> dict[str, Any]:
        return {"weights": self._sha256}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.image_embeddings is not None, "checked_scores checks needs"
        rows = self.encoder.unit_rows(samples.image_embeddings, self.name)
        return {"clip_aesthetic": (rows @ self._weight + self._bias).astype(np.float32)}
