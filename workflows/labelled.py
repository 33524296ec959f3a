"""Labels beside the stored scores that they are of, as `calibrate`, `label` and `fit` need them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from filters.labels import Label, LabelsError, read_labels
from filters.policy import Policy, PolicyError
from pipelines.scores import ScoredSamples, UnknownScoreError, read_scores
from pipelines.step import package_file
from workflows.newest import newest
from workflows.refusal import Refusal, did_you_mean


class Chosen(NamedTuple):
    """The labelled samples of one category: their rows among all samples, and what was decided."""

    category: str
    rows: Int[np.ndarray, " n"]
    positive: Bool[np.ndarray, " n"]
    picked: int
    """Labels of samples that some strategy other than chance chose."""


def categories_of(policy: str) -> list[str]:
    """The categories that labels may be of: those of a policy's rules."""
    try:
        return sorted({rule.category for rule in Policy.from_file(package_file(policy)).rules})
    except (FileNotFoundError, PolicyError) as error:
        raise Refusal(f"--policy: {error}") from error


def samples_of(
    root: Path, annotation: str | None, scores: Sequence[str], extra: Sequence[str] = ()
) -> ScoredSamples:
    """Samples and scores of the root's newest annotation, or of the one whose address is given."""
    try:
        return read_scores(newest(root, "annotation", annotation), scores, extra)
    except UnknownScoreError as error:
        raise Refusal(f"--score: {error}") from error


def labels_of(path: Path, samples: ScoredSamples, policy: str) -> list[Label]:
    """The file's labels, each of a known sample and category."""
    try:
        return read_labels(path, keys=set(samples.keys), categories=categories_of(policy))
    except LabelsError as error:
        raise Refusal(str(error)) from error


def choose(labels: Sequence[Label], samples: ScoredSamples, category: str | None, path: Path) -> Chosen:
    """Labels of one category; which one goes without saying where there is only one."""
    there = sorted({label.category for label in labels})
    if category is None and len(there) != 1:
        raise Refusal(
            f"{path}: expected labels of one category, got {', '.join(there) or 'none'}; add --category"
        )
    wanted = category or there[0]
    if wanted not in there:
        raise Refusal(
            f"--category {wanted}: no label in {path} is of it{did_you_mean(wanted, there)}; "
            f"there: {', '.join(there) or 'none'}"
        )
    row_of = {key: row for row, key in enumerate(samples.keys)}
    mine = [label for label in labels if label.category == wanted]
    return Chosen(
        category=wanted,
        rows=np.array([row_of[label.key] for label in mine], np.int64),
        positive=np.array([label.positive for label in mine], bool),
        picked=sum(label.chosen_by not in ("", "random") for label in mine),
    )
