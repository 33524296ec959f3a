"""Kept share against the threshold of one score, from stored scores; by labels recall and precision too."""

from __future__ import annotations

import html
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from filters.calibration import rates_at
from filters.policy import Policy
from pipelines.judge.stored import StoredVerdict
from pipelines.judge.verdict import SUCCESS

Side = Literal["above", "below"]
SUFFIXES = (".png", ".svg", ".html")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A bound that the policy has on the score."""

    rule: str
    side: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled samples of one category: their values of the score, and whether they belong to it.

    `picked`: how many were chosen for labelling by something other than chance."""

    category: str
    scores: Float[np.ndarray, " m"]
    positive: Bool[np.ndarray, " m"]
    picked: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Rows kept if what lies beyond the threshold is dropped: by this alone, and with the policy's rules that
    do not read the score.  Shares are of the rows that have the score, in [0, 1].

    `recall`, `precision`: of this threshold alone on labelled samples, `Rate.to_dict`; None without labels.
    """

    threshold: float
    kept_rows: int
    kept_share: float
    kept_share_with_other_rules: float
    recall: dict[str, Any] | None = None
    precision: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The curve of one score.  Duplicates and the split are no part of it."""

    score: str
    side: str
    rows: int
    points: list[Point]
    marks: list[Mark]
    category: str | None = None
    """What the labels are of."""
    picked: int = 0

    def json(self) -> dict[str, Any]:
        return asdict(self)


def sweep(
    stored: StoredVerdict,
    policy: Policy,
    score: str,
    side: Side | None,
    points: int,
    labelled: Labelled | None = None,
) -> Sweep:
    """The curve over `points` thresholds from the lowest value to the highest, the policy's own among them.

    Without a `side` it is that of the policy's bounds on the score, "above" where it has none.
    """
    bounds = marks(policy, score)
    sides = {mark.side for mark in bounds}
    chosen: Side = side or ("below" if sides == {"below"} else "above")
    values, others = _scored(stored, policy, score)
    if not len(values):
        return Sweep(score=score, side=chosen, rows=0, points=[], marks=bounds)
    own = [mark.value for mark in bounds if mark.side == chosen]
    thresholds = np.unique([*np.linspace(values.min(), values.max(), points), *own])
    # Plain floats: NumPy then compares in the values' own float32, as a policy's conditions do.
    kept = [values <= t if chosen == "above" else values >= t for t in thresholds.tolist()]
    rates = [_rates(labelled, t, chosen) for t in thresholds.tolist()]
    return Sweep(
        score=score,
        side=chosen,
        rows=len(values),
        points=[
            Point(
                threshold=float(threshold),
                kept_rows=int(keep.sum()),
                kept_share=round(float(keep.mean()), 6),
                kept_share_with_other_rules=round(float((keep & others).mean()), 6),
                **rate,
            )
            for threshold, keep, rate in zip(thresholds, kept, rates, strict=True)
        ],
        marks=bounds,
        category=labelled.category if labelled else None,
        picked=labelled.picked if labelled else 0,
    )


def _rates(labelled: Labelled | None, threshold: float, side: Side) -> dict[str, dict[str, Any]]:
    if labelled is None:
        return {}
    rates = rates_at(labelled.scores, labelled.positive, threshold, side=side)
    return {"recall": rates.recall.to_dict(), "precision": rates.precision.to_dict()}


def rate_text(rate: dict[str, Any] | None) -> str:
    """k of n with its Wilson interval, for tables; nothing where there is no rate."""
    if rate is None:
        return ""
    low, high = rate["wilson"]
    return f"{rate['k']} of {rate['n']}, {low:.3f} to {high:.3f}"


def marks(policy: Policy, score: str) -> list[Mark]:
    """Every bound of the policy on the score, in file order."""
    return [
        Mark(rule=rule.name, side=side, value=value)
        for i, rule in enumerate(policy.rules)
        for _, leaf in rule.when.leaves(f"rules[{i}].when")
        for side in ("above", "below")
        if leaf.score == score and (value := getattr(leaf, side)) is not None
    ]


def _scored(
    stored: StoredVerdict, policy: Policy, score: str
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The score of every row that has it, and whether the rules that do not read it keep the row."""
    reading = {mark.rule for mark in marks(policy, score)}
    rest = policy.model_copy(update={"rules": tuple(r for r in policy.rules if r.name not in reading)})
    tables = list(stored.scored(dict.fromkeys([score, *rest.score_names()])))
    if not tables:
        return np.zeros(0), np.zeros(0, bool)
    table = pa.concat_tables(tables)
    table = table.filter(pa.compute.equal(table["status"], SUCCESS))
    return table[score].to_numpy(), rest.decide(table)["keep"].to_numpy()


def write_curve(curve: Sweep, path: Path) -> None:
    """Draw the curve as PNG, SVG, or an HTML page without external assets, by the path's suffix."""
    figure = _figure(curve)
    if path.suffix != ".html":
        figure.savefig(path, dpi=110)
        return
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    drawing = buffer.getvalue()
    cells: tuple[str, ...] = ("threshold", "rows kept", "alone", "with the other rules")
    cells += ("recall", "precision") if curve.category else ()
    rows = [cells, *(_cells(point)[: len(cells)] for point in curve.points)]
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    title = html.escape(f"Kept share against the threshold of {curve.score}")
    labels = html.escape(f"Recall and precision: category {curve.category}, with 95 % Wilson intervals.")
    path.write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        "<style>body { font: 15px system-ui, sans-serif; margin: 2rem } td { padding-right: 1.2rem; "
        f"text-align: right }}</style>\n<h1>{title}</h1>\n{drawing[drawing.index('<svg') :]}\n"
        f"{f'<p>{labels}</p>' if curve.category else ''}<table>{body}</table></html>\n",
        encoding="utf-8",
    )


def _cells(point: Point) -> tuple[str, ...]:
    return (
        f"{point.threshold:g}",
        f"{point.kept_rows}",
        f"{100 * point.kept_share:.2f} %",
        f"{100 * point.kept_share_with_other_rules:.2f} %",
        rate_text(point.recall),
        rate_text(point.precision),
    )


def _figure(curve: Sweep) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 7 if curve.category else 4), layout="constrained")
    axes, *below = figure.subplots(2 if curve.category else 1, sharex=True, squeeze=False).ravel()
    thresholds = [point.threshold for point in curve.points]
    axes.plot(thresholds, [100 * point.kept_share for point in curve.points], label="this score alone")
    others = [100 * point.kept_share_with_other_rules for point in curve.points]
    axes.plot(thresholds, others, label="with the policy's other rules")
    for mark in curve.marks:
        axes.axvline(mark.value, color="tab:red", linestyle="--", linewidth=1)
        name = f"{mark.rule}: {mark.side} {mark.value:g}"
        axes.text(mark.value, 2, name, rotation=90, fontsize=8, ha="right", va="bottom")
    axes.set(
        xlabel=f"{curve.score}, dropped {curve.side} the threshold", ylabel=f"% of {curve.rows:,} rows kept"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    for rates in below:
        _draw_rates(rates, curve)
    return figure


def _draw_rates(axes: Any, curve: Sweep) -> None:
    """Recall and precision with their intervals; a point without a flagged sample has no precision."""
    for name in ("recall", "precision"):
        points = [(p.threshold, rate) for p in curve.points if (rate := getattr(p, name)) and rate["n"]]
        thresholds = [threshold for threshold, _ in points]
        (line,) = axes.plot(thresholds, [100 * rate["share"] for _, rate in points], label=name)
        ends = [[100 * rate["wilson"][end] for _, rate in points] for end in (0, 1)]
        axes.fill_between(thresholds, *ends, color=line.get_color(), alpha=0.2)
    axes.set(xlabel=f"labels of {curve.category}, 95 % intervals", ylabel="%", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
