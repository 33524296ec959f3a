"""Two learned prompts against an image's CLIP embedding: Q16 and LAION's violence detector.

A file holds a harmless and a harmful point of CLIP's text space, shape (2, d).  Q16 (Schramowski et al. 2022,
"Can machines help us answering question 16 in datasheets", github.com/ml-research/Q16, MIT) fitted them by
prompt tuning; LAION-AI/CLIP-based-NSFW-Detector (MIT) publishes the violence pair in the same form.  Both
call an image harmful where the harmful point is nearer.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from filters.fitted_on import clip_model, unit
from filters.scorer import Samples, ScoreSpec
from filters.weights import released_file

CLIP_LOGIT_SCALE = 100.0
_Q16, _LAION = "https://github.com/ml-research/Q16", "https://github.com/LAION-AI/CLIP-based-NSFW-Detector"
RELEASES = {
    "q16": {
        "vit_l_14": (
            "q16_prompts_vit_l_14.npy",
            f"{_Q16} (its prompts of ViT-L/14, saved as .npy)",
            "2e61243d8a046c6ce32d044b83e37e98243820da638cd3ef9b58271cce54c8ef",
        ),
        "vit_b_32": (
            "q16_prompts_vit_b_32.npy",
            f"{_Q16} (its prompts of ViT-B/32, saved as .npy)",
            "ec08271139e183f2e58af4050b1aa7f885bde223c38a4a7f33a6fd9f46ca572a",
        ),
    },
    "violence": {
        "vit_l_14": (
            "violence_detection_vit_l_14.npy",
            _LAION,
            "cc08f81ef50b1ef71452ddc87285fe6fbbc01b6fe8f8b8c24482c386ef2ab7e1",
        ),
        "vit_b_32": (
            "violence_detection_vit_b_32.npy",
            _LAION,
            "76909cca3e77abbbb21313895756773a9c6fb26c9cc743f3ef0625f025741982",
        ),
    },
}


class _PromptPair:
    """The softmax of CLIP's logits over the two points: above 0.5 exactly where the harmful one is nearer.

    model: `vit_l_14` or `vit_b_32`, the CLIP whose embeddings come.  weights: path of the .npy file; None
    looks in the folder of UNCLIP_WEIGHTS.
    """

    name: str
    version = 1
    needs = frozenset({"image_embeddings"})
    specs: tuple[ScoreSpec, ...]
    family: str

    def __init__(self, model: str = "vit_l_14", weights: Path | str | None = None) -> None:
        self.encoder = clip_model(self.name, model)
        path = released_file(weights, *RELEASES[self.family][model])
        self._prompts = unit(np.load(path, allow_pickle=False))
        self._sha256 = RELEASES[self.family][model][2]

    def identity(self) -> dict[str, Any]:
        return {"weights": self._sha256}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.image_embeddings is not None, "checked_scores checks needs"
        rows = self.encoder.unit_rows(samples.image_embeddings, self.name)
        harmless, harmful = (rows @ self._prompts.T).T
        margin = CLIP_LOGIT_SCALE * (harmful - harmless)
        return {self.specs[0].name: (0.5 * (1 + np.tanh(0.5 * margin))).astype(np.float32)}


class ClipQ16(_PromptPair):
    """``clip_q16``: how much nearer the picture is to Q16's inappropriate point, in [0, 1]."""

    name, family = "clip_q16", "q16"
    specs = (
        ScoreSpec(
            name="clip_q16",
            low=0.0,
            high=1.0,
            worse="high",
            description="inappropriate against harmless, Q16",
        ),
    )


class ClipViolence(_PromptPair):
    """``clip_violence``: how much nearer the picture is to LAION's violent point, in [0, 1]."""

    name, family = "clip_violence", "violence"
    specs = (
        ScoreSpec(
            name="clip_violence", low=0.0, high=1.0, worse="high", description="violent against harmless"
        ),
    )
