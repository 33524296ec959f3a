"""`unclip policy sweep`: how much is kept at which threshold."""

from __future__ import annotations

import json
from pathlib import Path

import click

from workflows.cli.options import json_option, root_option, verdict_option


@click.group()
def policy() -> None:
    """Look at policies beside the stored scores.

    \b
    unclip policy sweep explicit_image
    """


@policy.command("sweep")
@click.argument("score")
@click.option("--policy", "file", metavar="FILE", help="Instead of the policy that made the verdict.")
@click.option("--side", type=click.Choice(["above", "below"]), help="Which side of the threshold is dropped.")
@click.option("--points", type=click.IntRange(2, 1000), default=21, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Draw the curve here: .png, .svg or .html."
)
@click.option(
    "--labels", type=click.Path(path_type=Path), help="CSV with the columns key,category,label: adds rates."
)
@click.option("--category", help="Of several in the labels, the one meant.")
@verdict_option
@root_option
@json_option
def sweep(
    score: str,
    file: str | None,
    side: str | None,
    points: int,
    out: Path | None,
    labels: Path | None,
    category: str | None,
    verdict: str | None,
    root: Path,
    as_json: bool,
) -> None:
    """Print the kept share against the threshold of SCORE, the policy's own thresholds marked.

    "alone": nothing but this threshold drops; "with other rules": the policy's rules that do not read SCORE
    drop as well.  Shares are of the rows that have the score.  With --labels each threshold has its recall
    and precision on the labelled samples, with intervals.

    \b
    unclip policy sweep explicit_image
    unclip policy sweep toxic_toxic --out curve.html --root /data/unclip
    unclip policy sweep explicit_image --labels labels.csv --category sexual --out curve.svg
    """
    from infra.machine import folder_problem
    from workflows.judging import open_verdict, read_policy, sweep_score, sweep_text
    from workflows.refusal import Refusal

    if out is not None:
        if out.suffix not in (".png", ".svg", ".html"):
            raise Refusal(f"--out {out}: expected a name that ends in .png, .svg or .html")
        if problem := folder_problem(out.absolute().parent, "--out"):
            raise Refusal(problem)
    stored = open_verdict(root, verdict)
    wanted = read_policy(file) if file else stored.policy
    if category and labels is None:
        raise Refusal("--category: add --labels, the file whose category it is")
    curve = sweep_score(stored, wanted, score, side=side, points=points, labels=labels, category=category)
    if out is not None:
        from pipelines.judge.sweep import write_curve

        out.parent.mkdir(parents=True, exist_ok=True)
        write_curve(curve, out)
    click.echo(json.dumps(curve.json(), indent=1) if as_json else sweep_text(curve))
