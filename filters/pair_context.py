"""Image and caption judged together: two harmless halves can make a harmful whole.

A picture of a shower is harmless, so is the caption "a woman"; a model trained on many such pairs learns what
stands between them.  No filter that reads one half sees it.  OpenAI's and LAION's mitigations judge halves.

The score is a product, so that both halves must be there:

    explicit_context = (largest score of an image context) x (how surely the caption is about a person)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from filters.normalise import NORMALISE_VERSION, score_views
from filters.phrases import PhraseList, words_of
from filters.scorer import Samples, ScoreSpec
from filters.weights import sha256_of

DATA = Path(__file__).parent / "data" / "pair"
CONTEXTS = ("concept_bath", "concept_bed", "concept_underwear")


class PairContext:
    """``explicit_context`` in [0, 1]: an intimate context in the image, a person as the caption's subject.

    contexts: scores in [0, 1] of other scorers that say how intimate the picture is; by default concepts of
    `zero_shot_concepts`.  subjects: path of a phrase list (`filters.phrases`): 1 for a word that is a person,
    0.5 for one that may be; its `allow` list holds phrases in which such a word is no person ("iron man").
    """

    name = "pair_context"
    version = 1
    needs = frozenset({"captions", "scores"})
    reads: tuple[str, ...] = CONTEXTS
    specs = (
        ScoreSpec(
            name="explicit_context",
            low=0.0,
            high=1.0,
            worse="high",
            description="intimate context in the image x person in the caption",
        ),
    )

    def __init__(self, contexts: Sequence[str] = CONTEXTS, subjects: Path | str | None = None) -> None:
        if not contexts or isinstance(contexts, str):
            raise ValueError(f"{self.name}: expected contexts to be a list of scores, got {contexts!r}")
        self.reads = tuple(contexts)
        path = Path(subjects) if subjects is not None else DATA / "subjects.yaml"
        self._subjects = PhraseList.from_file(path)
        self._sha256 = sha256_of(path)

    def identity(self) -> dict[str, Any]:
        return {"contexts": list(self.reads), "subjects": self._sha256, "normalise": NORMALISE_VERSION}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.captions is not None and samples.scores is not None, "checked_scores checks needs"
        image = np.max([samples.scores[name] for name in self.reads], axis=0)
        if ((image < 0) | (image > 1)).any():
            raise ValueError(
                f"scorer {self.name!r}: expected contexts in [0, 1], got {image.min()} to {image.max()}"
            )
        return {"explicit_context": (image * self.persons(samples.captions)).astype(np.float32)}

    def persons(self, captions: Sequence[str]) -> Float[np.ndarray, " n"]:
        """How surely each caption is about a person, in [0, 1], whatever its spelling hides."""
        return score_views(captions, self._score_texts, 1)[:, 0]

    def _score_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "m 1"]:
        return np.array([[self._subjects.best(words_of(text)).score] for text in texts], dtype=np.float32)
