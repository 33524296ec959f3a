"""Which scorers a policy needs: those that make the scores its rules read."""

import importlib
from collections.abc import Collection, Iterable
from typing import Any

from filters.policy import Policy, PolicyError
from filters.registry import SCORERS, nearest
from filters.scorer import CombinesScores, MakesOnDemand, ScoreSpec

Options = dict[str, Any]


def scorers_for(policy: Policy) -> dict[str, Options]:
    """The registered scorers that make the policy's scores, by name, with their options; no weights are
    loaded.

    A scorer that combines scores brings along those that make what it reads.  Raises PolicyError for a score
    that no scorer makes, naming the nearest, and for a bound that no value of a score can meet.
    """
    wanted = set(policy.score_names())
    chosen, specs = _makers(wanted)
    _refuse_unknown(policy, specs)
    policy.check_specs(specs.values())
    if reads := {score for name in chosen for score in _reads(name)} - wanted:
        chosen, _ = _makers(wanted | reads)
    return chosen


def declared_specs(scorer: str) -> tuple[ScoreSpec, ...]:
    """The scores that a registered scorer's class declares; none where they depend on its options, or where
    an optional package that it needs is not installed."""
    specs = getattr(_class(scorer), "specs", ())
    return specs if isinstance(specs, tuple) else ()


def _makers(wanted: Collection[str]) -> tuple[dict[str, Options], dict[str, ScoreSpec]]:
    """The scorers that make any of the wanted scores, with options, and the specs of all looked at."""
    known: dict[str, ScoreSpec] = {}
    chosen: dict[str, Options] = {}
    for name in sorted(SCORERS):
        if known.keys() >= set(wanted):  # what is left need not be imported
            break
        scorer = _class(name)
        options, specs = (
            scorer.makes(wanted) if isinstance(scorer, MakesOnDemand) else ({}, declared_specs(name))
        )
        known |= {spec.name: spec for spec in specs}
        if any(spec.name in wanted for spec in specs):
            chosen[name] = options
    return chosen, known


def _reads(scorer: str) -> tuple[str, ...]:
    found = _class(scorer)
    return found.reads if isinstance(found, CombinesScores) else ()


def _class(scorer: str) -> Any:
    """A registered scorer's class; None where an optional package that it needs is not installed."""
    module, _, attribute = SCORERS[scorer].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return None


def _refuse_unknown(policy: Policy, known: Iterable[str]) -> None:
    names = list(known)
    for score in policy.score_names():
        if score not in names:
            raise PolicyError(
                f"policy {policy.name!r}: no scorer makes the score {score!r}{nearest(score, names)}; "
                f"known: {', '.join(sorted(names))}"
            )
