"""Confidence intervals of a proportion k/n, of the ratio of two, and of the area under a ROC curve."""

import math
from typing import NamedTuple


class Interval(NamedTuple):
    """Of a proportion both ends lie in [0, 1], of a ratio in [0, inf]."""

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


def proportion_ratio(first: tuple[int, int], second: tuple[int, int], level: float = 0.95) -> Interval:
    """Of (k1/n1) / (k2/n2), two independent proportions: MOVER-R with the exact limits of each.

    Donner and Zou, Stat. Methods Med. Res. 21:347 (2012), take Wilson's limits; with Clopper and Pearson's it
    is wider and does not call a single miss of one trial a finding.  Never of zero width, also where all or
    none succeed; without a success in the second the upper end is infinite.  Raises ValueError for impossible
    counts.
    """
    (l1, u1), (l2, u2) = clopper_pearson(*first, level), clopper_pearson(*second, level)
    p1, p2 = (k / n if n else 0.5 for k, n in (first, second))
    product = p1 * p2
    # Each end solves a x^2 - 2 p1 p2 x + c = 0; this form also holds where a is 0.
    a, c = u2 * (2 * p2 - u2), l1 * (2 * p1 - l1)
    denominator = product + math.sqrt(max(product**2 - a * c, 0.0))
    low = c / denominator if denominator > 0 else 0.0
    a, c = l2 * (2 * p2 - l2), u1 * (2 * p1 - u1)
    high = (product + math.sqrt(max(product**2 - a * c, 0.0))) / a if a > 0 else math.inf
    return Interval(max(low, 0.0), high)


def auc_interval(area: float, positives: int, negatives: int, level: float = 0.95) -> Interval:
    """Of an area under the ROC curve: Newcombe's method 5 (Stat. Med. 25:559, 2006), which inverts a score
    test.

    Unlike intervals from an estimated variance it keeps a width where all samples are ranked right.
    Raises ValueError without a positive or a negative, or for an area outside [0, 1].
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    if min(positives, negatives) < 1 or not 0 <= area <= 1:
        raise ValueError(f"expected an area of both sides, got {area} of {positives} and {negatives}")
    z2, half = float(ndtri(0.5 + level / 2)) ** 2, (positives + negatives) / 2 - 1

    def outside(theta: float) -> float:
        spread = 1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)
        return (area - theta) ** 2 - z2 * theta * (1 - theta) * spread / (positives * negatives)

    # An area of 1 (of 0) is itself a root, but the other end is the one wanted.
    low = 0.0 if area == 0 else float(brentq(outside, 0.0, min(area, 1 - 1e-9)))
    high = 1.0 if area == 1 else float(brentq(outside, max(area, 1e-9), 1.0))
    return Interval(low, high)


def _check(successes: int, trials: int, level: float) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    if not 0 < level < 1:
        raise ValueError(f"expected a confidence level in (0, 1), got {level}")
