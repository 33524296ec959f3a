"""A light classifier of stored image embeddings, fitted on one's own labels (`filters.classifier_fit`): a
scorer.

It lies in an `.npz` of plain arrays and JSON text; nothing in it is pickled.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from filters.scorer import Samples, ScoreSpec
from filters.weights import WeightsError, sha256_of

FORMAT = 1
_ARRAYS = {
    "logistic": ("coefficients", "intercept"),
    "rbf": ("support", "coefficients", "intercept", "gamma", "slope", "offset"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """What is stored: the kind, its arrays (float64), and facts about the fit.

    logistic: P = sigmoid(u . coefficients + intercept), u the embedding scaled to length 1. rbf: f = sum_i
    coefficients_i exp(-gamma |u - support_i|^2) + intercept, P = sigmoid(slope f + offset), which is Platt's
    scaling of a support vector machine.
    """

    kind: str
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]
    """`category`, `encoder` (identity of the embeddings' encoder), `width`, labels and cross-validated
    rates."""

    def probability(self, embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """P(category) of each row; NaN where an embedding is zero or not finite.

        einsum sums every row in one order, so a score does not depend on the batch.
        """
        rows, a = unit_rows(embeddings), self.arrays
        if self.kind == "logistic":
            return _sigmoid(np.einsum("nd,d->n", rows, a["coefficients"]) + a["intercept"])
        distance = 2 - 2 * np.einsum("nd,sd->ns", rows, a["support"])
        kernel = np.exp(-a["gamma"] * distance)
        value = np.einsum("ns,s->n", kernel, a["coefficients"]) + a["intercept"]
        return _sigmoid(a["slope"] * value + a["offset"])

    def to_bytes(self) -> bytes:
        """The file; equal classifiers are equal bytes."""
        out = io.BytesIO()
        told = json.dumps({"format": FORMAT, "kind": self.kind, **self.facts}, sort_keys=True)
        arrays: dict[str, Any] = {name: self.arrays[name] for name in _ARRAYS[self.kind]}
        np.savez(out, told=np.array(told), **arrays)
        return out.getvalue()

    @classmethod
    def from_file(cls, path: Path) -> Classifier:
        """Raises WeightsError, one line with the path, where the file is missing or is no classifier."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                facts = json.loads(str(stored["told"]))
                if (given := facts.pop("format")) != FORMAT:
                    raise ValueError(f"format {given}, expected {FORMAT}")
                kind = facts.pop("kind")
                arrays = {name: np.asarray(stored[name], np.float64) for name in _ARRAYS[kind]}
            FittedEncoder.of(facts)
        # A plain array is no context manager (TypeError), JSON that is no object has no keys to pop.
        except (OSError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
            raise WeightsError(
                f"classifier {path}: cannot be read ({error}); make it with `unclip fit`"
            ) from error
        return cls(kind=kind, arrays=arrays, facts=facts)


@dataclass(frozen=True, kw_only=True)
class FittedEncoder:
    """The encoder whose embeddings a classifier was fitted on; those of another mean nothing to it."""

    identity: dict[str, Any]
    width: int

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> FittedEncoder:
        """From a classifier's facts; raises KeyError, TypeError or ValueError where they do not tell it."""
        return cls(identity=dict(facts["encoder"]), width=int(facts["width"]))

    def problem(self, encoder: Mapping[str, Any]) -> str | None:
        """What speaks against an encoder of this identity (`name`, `weights`), or None."""
        if all(encoder.get(name) == self.identity.get(name) for name in ("name", "weights")):
            return None
        return (
            f"was fitted on embeddings of {self.identity.get('name')} (width {self.width}), got those of "
            f"{encoder.get('name')}, or of other weights; fit it anew with `unclip fit`"
        )


class EmbeddingClassifier:
    """The classifier in the file `path`; valid for embeddings of the encoder it was fitted on."""

    name = "embedding_classifier"
    version = 1
    needs = frozenset({"image_embeddings"})
    specs: ClassVar[tuple[ScoreSpec, ...]] = (
        ScoreSpec(
            name="embedding_classifier",
            low=0.0,
            high=1.0,
            worse="high",
            description="P(category) by a classifier fitted on labels",
        ),
    )

    def __init__(self, path: str | None = None) -> None:
        """Raises WeightsError where there is no such file, or it is no classifier."""
        if path is None:
            raise WeightsError(
                f"scorer {self.name!r} needs the file of a classifier, option `path`; `unclip fit` makes one"
            )
        self.classifier = Classifier.from_file(Path(path))
        self.encoder = FittedEncoder.of(self.classifier.facts)
        self._digest = sha256_of(Path(path))

    def identity(self) -> dict[str, Any]:
        return {"classifier": self._digest}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        """Raises ValueError for embeddings of another width than those it was fitted on."""
        embeddings = samples.image_embeddings
        assert embeddings is not None, "checked_scores checks needs"
        if embeddings.shape[1] != self.encoder.width:
            raise ValueError(
                f"scorer {self.name!r}: expected embeddings of width {self.encoder.width} (encoder "
                f"{self.encoder.identity.get('name')}), got {embeddings.shape[1]}; fit it on these with "
                "`unclip fit`"
            )
        return {self.name: self.classifier.probability(embeddings).astype(np.float32)}


def unit_rows(embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows in float64, scaled to length 1; NaN where a row is zero or not finite."""
    rows = embeddings.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _sigmoid(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))
