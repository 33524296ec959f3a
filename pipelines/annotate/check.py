"""What speaks against an annotate step's scorers before any work: each line says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filters.fitted_on import FittedOn
from filters.one_pass import combination_problems
from filters.scorer import ReadsPrompts, Scorer
from filters.weights import WeightsError
from infra.environment import environment_problem
from pipelines.annotate.apart import RunsApart
from pipelines.annotate.config import AnnotateConfig

EMBEDDINGS = frozenset({"image_embeddings", "text_embeddings"})


def scorer_problems(config: AnnotateConfig, encoder: Mapping[str, Any] | None) -> list[str]:
    """Scorers that cannot be loaded, do not fit the encoder (None: unknown) or lack others' scores."""
    problems = _stray_settings(config)
    scorers: list[Scorer] = []
    for name in config.scorers:
        try:
            scorers.append(config.load_scorer(name))
        except (ValueError, OSError, WeightsError) as error:
            problems.append(str(error))
            continue
        if isinstance(scorers[-1], RunsApart) and (missing := environment_problem(scorers[-1].environment)):
            problems.append(f"scorer {name!r}: {missing}")
        if encoder is not None and (problem := _encoder_problem(scorers[-1], encoder)):
            problems.append(f"scorer {name!r} {problem}")
    if len(scorers) == len(config.scorers):
        problems += combination_problems(scorers)
    return problems


def _stray_settings(config: AnnotateConfig) -> list[str]:
    """Options of a scorer that does not run would silently do nothing."""
    return [
        f"{field}.{name}: no such scorer in this step; its scorers are {', '.join(config.scorers) or 'none'}"
        for field in ("scorer_options", "scorer_files")
        for name in getattr(config, field)
        if name not in config.scorers
    ]


def _encoder_problem(scorer: Scorer, encoder: Mapping[str, Any]) -> str | None:
    if isinstance(scorer, FittedOn):
        return scorer.encoder.problem(encoder)
    joint = scorer.needs >= EMBEDDINGS or isinstance(scorer, ReadsPrompts)
    if joint and encoder["name"] == "lit-towers":
        return (
            "compares image with text embeddings, but before train_clip encoder 'lit' has no common space of "
            "the two; leave the scorer out or use an open_clip encoder"
        )
    return None
