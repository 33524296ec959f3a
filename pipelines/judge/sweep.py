"""Kept share against the threshold of one score, from stored scores."""

from __future__ import annotations

import html
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Rows kept if what lies beyond the threshold is dropped: by this alone, and with the policy's rules that
    do not read the score.  Shares are of the rows that have the score, in [0, 1]."""

    threshold: float
    kept_rows: int
    kept_share: float
    kept_share_with_other_rules: float


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The curve of one score.  Duplicates and the split are no part of it."""

    score: str
    side: str
    rows: int
    points: list[Point]
    marks: list[Mark]

    def json(self) -> dict[str, Any]:
        return asdict(self)


def sweep(stored: StoredVerdict, policy: Policy, score: str, side: Side | None, points: int) -> Sweep:
    """The curve over `points` thresholds from the lowest value to the highest, the policy's own among them.

    Without a `side` it is that of the policy's bounds on the score, "above" where it has none.
    """
    bounds = marks(policy, score)
    sides = {mark.side for mark in bounds}
    chosen = side or ("below" if sides == {"below"} else "above")
    values, others = _scored(stored, policy, score)
    if not len(values):
        return Sweep(score=score, side=chosen, rows=0, points=[], marks=bounds)
    own = [mark.value for mark in bounds if mark.side == chosen]
    thresholds = np.unique([*np.linspace(values.min(), values.max(), points), *own])
    # Plain floats: NumPy then compares in the values' own float32, as a policy's conditions do.
    kept = [values <= t if chosen == "above" else values >= t for t in thresholds.tolist()]
    return Sweep(
        score=score,
        side=chosen,
        rows=len(values),
        points=[
            Point(
                threshold=round(float(threshold), 6),
                kept_rows=int(keep.sum()),
                kept_share=round(float(keep.mean()), 6),
                kept_share_with_other_rules=round(float((keep & others).mean()), 6),
            )
            for threshold, keep in zip(thresholds, kept, strict=True)
        ],
        marks=bounds,
    )


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
    rows = "".join(
        f"<tr><td>{p.threshold:g}</td><td>{p.kept_rows}</td><td>{100 * p.kept_share:.2f} %</td>"
        f"<td>{100 * p.kept_share_with_other_rules:.2f} %</td></tr>"
        for p in curve.points
    )
    title = html.escape(f"Kept share against the threshold of {curve.score}")
    path.write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        "<style>body { font: 15px system-ui, sans-serif; margin: 2rem } td, th { padding-right: 1.2rem; "
        f"text-align: right }}</style>\n<h1>{title}</h1>\n{drawing[drawing.index('<svg') :]}\n"
        "<table><tr><th>threshold</th><th>rows kept</th><th>alone</th><th>with the other rules</th></tr>"
        f"{rows}</table></html>\n",
        encoding="utf-8",
    )


def _figure(curve: Sweep) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
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
    return figure
