"""Concepts named by prompts, found in images by a joint image-text encoder (zero-shot, Radford et al. 2021).

A YAML file (`filters/data/concepts/safety.yaml` is the default):

    schema_version: 1
    logit_scale: 100          # of the encoder: 100 for CLIP
    neutral: ["a photo of a landscape", ...]
    concepts:
      weapons: {prompts: ["a photo of a gun", ...], threshold: 0.7}

A concept's score is the share of the softmax over its prompts and the neutral ones that its prompts hold.
Concepts do not compete with each other: adding one moves no other's scores.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from filters.fitted_on import unit
from filters.scorer import Samples, ScoreSpec

DEFAULT = Path(__file__).parent / "data" / "concepts" / "safety.yaml"
OVER_THRESHOLD = "concept_over_threshold"
_NAME = re.compile(r"[a-z0-9_]+")


class Concept(BaseModel):
    """Prompts, and the score above which the file's owner takes the concept for present."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompts: tuple[str, ...] = Field(min_length=1)
    threshold: float = Field(gt=0, lt=1)


class ConceptFile(BaseModel):
    """A concept file as written; see the module's docstring."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[1]
    logit_scale: float = Field(default=100.0, gt=0)
    neutral: tuple[str, ...] = Field(min_length=1)
    concepts: dict[str, Concept] = Field(min_length=1)

    @field_validator("concepts")
    @classmethod
    def _names(cls, concepts: dict[str, Concept]) -> dict[str, Concept]:
        for name in concepts:
            if not _NAME.fullmatch(name) or f"concept_{name}" == OVER_THRESHOLD:
                raise ValueError(f"{name!r} is no name for a concept: expected a-z, 0-9 and _")
        return concepts

    @classmethod
    def from_file(cls, path: Path) -> "ConceptFile":
        """Raises ValueError naming the file and what is wrong with it."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: cannot be read as a concept file: {error}") from error
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
            raise ValueError(f"{path}: not a concept file: {'; '.join(problems)}") from error

    def specs(self) -> tuple[ScoreSpec, ...]:
        """Of each concept's score, and of the largest excess."""
        over = "largest excess of a concept over its threshold in the file"
        return (
            *(
                ScoreSpec(name=f"concept_{name}", low=0.0, high=1.0, worse="high", description=c.prompts[0])
                for name, c in self.concepts.items()
            ),
            ScoreSpec(name=OVER_THRESHOLD, low=-1.0, high=1.0, worse="high", description=over),
        )


class ZeroShotConcepts:
    """``concept_<name>`` in [0, 1] for each concept, and ``concept_over_threshold`` in [-1, 1].

    The latter is the largest excess of a score over its threshold in the file: one policy rule (`above: 0`)
    honours them all.  A rule on one concept's score moves without scoring anew; the file's thresholds do not.

    concepts: path of a concept file.  Meaningful only with an encoder that has one space for both.
    """

    name = "zero_shot_concepts"
    version = 1
    needs = frozenset({"image_embeddings"})

    def __init__(self, concepts: Path | str | None = None) -> None:
        self._file = ConceptFile.from_file(Path(concepts) if concepts is not None else DEFAULT)
        named = [prompt for concept in self._file.concepts.values() for prompt in concept.prompts]
        self.prompts = (*self._file.neutral, *named)
        self._prompts: np.ndarray | None = None
        self.specs = self._file.specs()

    @classmethod
    def makes(cls, scores: Collection[str]) -> tuple[dict[str, Any], tuple[ScoreSpec, ...]]:  # noqa: ARG003
        """The concepts of the default file, whichever scores are asked for."""
        return {}, ConceptFile.from_file(DEFAULT).specs()

    def identity(self) -> dict[str, Any]:
        return {"concepts": self._file.model_dump(mode="json")}

    def use_prompts(self, embeddings: Float[np.ndarray, "p d"]) -> None:
        """Embeddings of ``prompts``, in their order, by the encoder that embeds the images."""
        if len(embeddings) != len(self.prompts):
            raise ValueError(
                f"scorer {self.name!r}: expected {len(self.prompts)} prompts, got {len(embeddings)}"
            )
        self._prompts = unit(embeddings)

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.image_embeddings is not None, "checked_scores checks needs"
        if self._prompts is None:
            raise ValueError(f"scorer {self.name!r}: its prompts were not embedded; call use_prompts first")
        images, prompts = unit(samples.image_embeddings), self._prompts
        if images.shape[1] != prompts.shape[1]:
            raise ValueError(
                f"scorer {self.name!r}: expected image embeddings of width {prompts.shape[1]}, as of the "
                f"prompts, got {images.shape[1]}; take an encoder with one space for images and texts"
            )
        scores, excess, start = {}, [], len(self._file.neutral)
        logits = self._file.logit_scale * images @ prompts.T
        for name, concept in self._file.concepts.items():
            end = start + len(concept.prompts)
            share = _share(logits[:, start:end], logits[:, : len(self._file.neutral)])
            scores[f"concept_{name}"] = share.astype(np.float32)
            excess.append(share - concept.threshold)
            start = end
        scores[OVER_THRESHOLD] = np.max(excess, axis=0).astype(np.float32)
        return scores


def _share(logits: Float[np.ndarray, "n p"], against: Float[np.ndarray, "n q"]) -> Float[np.ndarray, " n"]:
    """Of the softmax over both, the sum over the first, in [0, 1]."""
    both = np.concatenate([logits, against], axis=1)
    weights = np.exp(both - both.max(axis=1, keepdims=True))
    return np.clip(weights[:, : logits.shape[1]].sum(axis=1) / weights.sum(axis=1), 0.0, 1.0)
