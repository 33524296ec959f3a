"""`unclip calibrate`: the threshold of a score for a target recall, from labelled samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workflows.cli.options import json_option, label_options, root_option

if TYPE_CHECKING:
    from filters.calibration import Calibration, Side
    from workflows.labelled import Chosen

_SIDES: dict[str, Side] = {"above": "above", "below": "below"}


@click.command()
@click.option("--score", required=True, metavar="NAME", help="Which stored score to calibrate.")
@click.option("--recall", "target", type=float, required=True, help="Target, between 0 and 1.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    required=True,
    help="CSV with the columns key,category,label.",
)
@click.option(
    "--side",
    type=click.Choice(list(_SIDES)),
    default="above",
    show_default=True,
    help="Where samples of the category lie: the word of the policy's bound.",
)
@click.option("--level", type=float, default=0.95, show_default=True, help="Confidence of every interval.")
@label_options
@root_option
@json_option
def calibrate(
    score: str,
    target: float,
    labels: Path,
    side: str,
    level: float,
    category: str | None,
    policy: str,
    annotation: str | None,
    root: Path,
    as_json: bool,
) -> None:
    """Choose the threshold of a score that catches a target share of a category, and say how sure that is.

    The target is met with confidence, not just on these labels: the exact interval of the recall begins at or
    above it. Where the labels are too few for that, nothing is claimed and the number of labels that would do
    is printed.

    \b
    unclip calibrate --labels labels.csv --score explicit_image --recall 0.95
    unclip calibrate --labels labels.csv --score image_text_cosine --side below --recall 0.9 --json
    """
    from filters.calibration import NotEnoughLabels
    from filters.calibration import calibrate as fit
    from workflows.labelled import choose, labels_of, samples_of
    from workflows.refusal import Refusal

    samples = samples_of(root, annotation, [score])
    chosen = choose(labels_of(labels, samples, policy), samples, category, labels)
    scores = samples.score(score)
    try:
        result = fit(scores[chosen.rows], chosen.positive, target, side=_SIDES[side], level=level)
    except NotEnoughLabels as error:
        raise Refusal(f"{labels}, category {chosen.category}: {error}") from error
    except ValueError as error:
        raise Refusal(f"--recall, --level: {error}") from error
    report = _report(score, chosen, result, scores)
    click.echo(json.dumps(report, indent=1) if as_json else _text(report))


def _report(score: str, chosen: Chosen, result: Calibration, scores: Any) -> dict[str, Any]:
    from filters.calibration import flagged

    warnings = []
    if chosen.picked:
        warnings.append(
            f"{chosen.picked} labels are of samples that were picked, not drawn at random: these rates are "
            "theirs, not the corpus's"
        )
    if chosen.merged:
        warnings.append(f"{chosen.merged} labels are of copies of labelled pictures, not counted again")
    if result.auc < 0.5:
        warnings.append(
            f"samples of {chosen.category!r} score on the other side (AUC {result.auc:.2f}): "
            "try the other --side"
        )
    return {
        "score": score,
        "category": chosen.category,
        "threshold": result.threshold,
        "side": result.side,
        "target_recall": result.target,
        "level": result.level,
        **result.rates.to_dict(),
        "auc": None if result.auc != result.auc else round(result.auc, 6),
        "samples": len(scores),
        "samples_flagged": int(flagged(scores, result.threshold, result.side).sum()),
        "warnings": warnings,
    }


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['category']}: {{score: {report['score']}, {report['side']}: {report['threshold']!r}}} "
        f"for a recall of {report['target_recall']:g} or more ({report['level']:.0%} confidence)",
        f"{'':20} {'k of n':>12}  share  {'Wilson':^14}  Clopper-Pearson",
    ]
    for name in ("recall", "false_negative_rate", "precision", "false_positive_rate"):
        rate = report[name]
        share = "    -" if rate["share"] is None else f"{rate['share']:5.3f}"
        ends = ["{:.3f} to {:.3f}".format(*rate[interval]) for interval in ("wilson", "clopper_pearson")]
        lines.append(
            f"{name.replace('_', ' '):20} {rate['k']:>5} of {rate['n']:>4}  {share}  {ends[0]}  {ends[1]}"
        )
    lines.append(f"of all {report['samples']:,} samples {report['samples_flagged']:,} would be flagged")
    lines.append("precision is that of these labels: where the category is rarer, it is lower")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in report["warnings"])])
