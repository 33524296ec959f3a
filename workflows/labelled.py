"""Labels beside the stored scores that they are of, as `calibrate`, `label` and `fit` need them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from filters.classifier_fit import Kind, fit
from filters.labels import RANDOM, Label, LabelsError, labels_csv, merge_labels, read_labels
from filters.policy import Policy, PolicyError
from infra.machine import folder_problem
from infra.store import write_atomically
from pipelines.aligned import encoder_identity
from pipelines.label.page import render
from pipelines.label.queue import Asked, build_queue, duplicate_groups
from pipelines.scores import ScoredSamples, UnknownScoreError, corpus_of, read_scores
from pipelines.step import package_file
from pipelines.thumbnails import thumbnails
from workflows.newest import newest
from workflows.refusal import Refusal, did_you_mean

PICTURE_SIDE = 240


class Chosen(NamedTuple):
    """The labelled samples of one category: their rows among all samples, and what was decided."""

    category: str
    rows: Int[np.ndarray, " n"]
    positive: Bool[np.ndarray, " n"]
    picked: int
    """Labels of samples that some strategy other than chance chose."""
    merged: int
    """Labels left out because a copy of their picture has one: copies are no further evidence."""


def categories_of(policy: str) -> list[str]:
    """The categories that labels may be of: those of a policy's rules."""
    try:
        return sorted({rule.category for rule in Policy.from_file(package_file(policy)).rules})
    except (FileNotFoundError, PolicyError) as error:
        raise Refusal(f"--policy: {error}") from error


def samples_of(root: Path, annotation: str | None, scores: Sequence[str]) -> ScoredSamples:
    """Samples and scores of the root's newest annotation, or of the one whose address is given."""
    try:
        return read_scores(newest(root, "annotation", annotation), scores)
    except UnknownScoreError as error:
        raise Refusal(f"--score: {error}") from error


def labels_of(path: Path, samples: ScoredSamples, policy: str) -> list[Label]:
    """The file's labels, each of a known sample and category."""
    try:
        return read_labels(path, images=samples.images, categories=categories_of(policy))
    except LabelsError as error:
        raise Refusal(str(error)) from error


def choose(labels: Sequence[Label], samples: ScoredSamples, category: str | None, path: Path) -> Chosen:
    """Labels of one category, one of each cluster of duplicates; which category goes without saying where
    there is only one.  Raises `Refusal` where the labels of a cluster contradict each other."""
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
    groups = duplicate_groups(samples)
    of_group: dict[str, Label] = {}
    every = [label for label in labels if label.category == wanted]
    for label in every:
        first = of_group.setdefault(groups[row_of[label.key]], label)
        if first.positive != label.positive:
            raise Refusal(
                f"{path}: {first.key!r} and {label.key!r} show the same picture, but are labelled "
                f"{int(first.positive)} and {int(label.positive)} for {wanted!r}; keep one of the two rows"
            )
    mine = list(of_group.values())
    return Chosen(
        category=wanted,
        rows=np.array([row_of[label.key] for label in mine], np.int64),
        positive=np.array([label.positive for label in mine], bool),
        picked=sum(label.picked for label in mine),
        merged=len(every) - len(mine),
    )


def write_queue(
    out: Path, asked: Asked, labels: Path | None, root: Path, annotation: str | None, policy: str
) -> str:
    """Write the page of samples to label; returns what to tell."""
    if problem := folder_problem(out.parent, "--out"):
        raise Refusal(problem)
    if asked.category not in (known := categories_of(policy)):
        raise Refusal(
            f"--category {asked.category}: no rule of the policy is of it"
            f"{did_you_mean(asked.category, known)}; known: {', '.join(known)}"
        )
    samples = samples_of(root, annotation, asked.scores)
    so_far = labels_of(labels, samples, policy) if labels else []
    try:
        candidates = build_queue(samples, so_far, asked)
    except ValueError as error:
        raise Refusal(f"--strategy: {error}; add --score, --threshold or --labels") from error
    if not candidates:
        raise Refusal(
            f"nothing to label: all {len(samples.keys):,} samples have a label for {asked.category!r}"
        )
    pictures = thumbnails(corpus_of(samples.annotation), [one.key for one in candidates], PICTURE_SIDE)
    write_atomically(out, render(asked.category, candidates, pictures).encode())
    told = f"{len(candidates)} samples to label: {out}"
    picked = sum(label.picked and label.category == asked.category for label in so_far)
    if RANDOM in asked.strategies and (picked or len(asked.strategies) > 1):
        told += (
            "\nwarning: random samples leave out what other strategies picked, the hard ones among it, so "
            "their rates are not the corpus's: draw them first, in a queue of their own"
        )
    return told


def read_decisions(read: Path, labels: Path, root: Path, annotation: str | None, policy: str) -> str:
    """Merge downloaded decisions into the labels file, which is made where there is none; returns what to
    tell."""
    samples = samples_of(root, annotation, [])
    new = labels_of(read, samples, policy)
    old = labels_of(labels, samples, policy) if labels.exists() else []
    if problem := folder_problem(labels.parent, "--labels"):
        raise Refusal(problem)
    merged = merge_labels(old, new)
    decided = {(label.key, label.category): label.positive for label in old}
    changed = sum(decided.get((one.key, one.category), one.positive) != one.positive for one in new)
    write_atomically(labels, labels_csv(merged).encode())
    counts = [
        f"{category}: {sum(one.positive for one in merged if one.category == category)} yes, "
        f"{sum(not one.positive for one in merged if one.category == category)} no"
        for category in sorted({one.category for one in merged})
    ]
    added = len(merged) - len(old)
    return f"{labels}: {added} labels added, {changed} changed; now {'; '.join(counts) or 'empty'}"


def fit_classifier(
    chosen: Chosen, samples: ScoredSamples, kind: Kind, out: Path, seed: int
) -> dict[str, Any]:
    """Fit on the labels' embeddings and write the classifier; returns its facts."""
    if problem := folder_problem(out.parent, "--out"):
        raise Refusal(problem)
    groups = np.arange(len(chosen.rows))  # one label of each cluster of duplicates is left
    embeddings = samples.image_embeddings()[chosen.rows]
    try:
        found = fit(embeddings, chosen.positive, groups, kind, seed)
    except ValueError as error:
        raise Refusal(f"category {chosen.category}: {error}; label more with `unclip label`") from error
    facts = {
        "category": chosen.category,
        "encoder": encoder_identity(samples.annotation),
        "width": embeddings.shape[1],
        "positives": int(chosen.positive.sum()),
        "negatives": int((~chosen.positive).sum()),
        "picked": chosen.picked,
        "merged": chosen.merged,
    }
    classifier = found.classifier(facts)
    write_atomically(out, classifier.to_bytes())
    return {"file": str(out), "kind": kind, **classifier.facts}
