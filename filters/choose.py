"""Which scorers a policy needs: those that make the scores its rules read."""

import importlib
from collections.abc import Iterable

from filters.policy import Policy, PolicyError
from filters.registry import SCORERS, nearest
from filters.scorer import ScoreSpec


def scorers_for(policy: Policy) -> tuple[str, ...]:
    """Names of the registered scorers that make the policy's scores, sorted; no weights are loaded.

    Raises PolicyError for a score that no scorer makes, naming the nearest, and for a bound that no value of
    a score can meet.
    """
    wanted = set(policy.score_names())
    specs: dict[str, ScoreSpec] = {}
    chosen = []
    for name in sorted(SCORERS):
        if wanted <= specs.keys():  # what is left need not be imported
            break
        made = declared_specs(name)
        specs |= {spec.name: spec for spec in made}
        if wanted & {spec.name for spec in made}:
            chosen.append(name)
    _refuse_unknown(policy, specs)
    policy.check_specs(specs.values())
    return tuple(chosen)


def declared_specs(scorer: str) -> tuple[ScoreSpec, ...]:
    """The scores that a registered scorer's class declares; none where they depend on its options, or where
    an optional package that it needs is not installed."""
    module, _, attribute = SCORERS[scorer].partition(":")
    try:
        specs = getattr(getattr(importlib.import_module(module), attribute), "specs", ())
    except ModuleNotFoundError:
        return ()
    return specs if isinstance(specs, tuple) else ()


def _refuse_unknown(policy: Policy, known: Iterable[str]) -> None:
    names = list(known)
    for score in policy.score_names():
        if score not in names:
            raise PolicyError(
                f"policy {policy.name!r}: no scorer makes the score {score!r}{nearest(score, names)}; "
                f"known: {', '.join(sorted(names))}"
            )
