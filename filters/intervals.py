"""Confidence intervals of a proportion k/n."""

from typing import NamedTuple


class Interval(NamedTuple):
    """Both ends in [0, 1]."""

    low: float
    high: float


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Score interval (Wilson 1927): close to nominal coverage on average, good near 0 and 1 and for small n.

    No trials tell nothing: [0, 1].  Raises ValueError for impossible counts.
    """
    from scipy.special import ndtri

    _check(successes, trials, level)
    if trials == 0:
        return Interval(0.0, 1.0)
    z2 = float(ndtri(0.5 + level / 2)) ** 2
    p = successes / trials
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = (z2 * (p * (1 - p) / trials + z2 / (4 * trials**2))) ** 0.5 / (1 + z2 / trials)
    # At k = 0 and k = n the end is 0 or 1 exactly; rounding must not make it a hair less.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high)


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Exact interval (Clopper and Pearson 1934): coverage never below ``level``; for claims of safety.

    No trials tell nothing: [0, 1].  Raises ValueError for impossible counts.
    """
    from scipy.special import betaincinv

    _check(successes, trials, level)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return Interval(low, high)


def _check(successes: int, trials: int, level: float) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    if not 0 < level < 1:
        raise ValueError(f"expected a confidence level in (0, 1), got {level}")
