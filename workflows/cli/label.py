"""`unclip label`: a page of the samples that are most worth a label, and its decisions read back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflows.cli.options import label_options, root_option

if TYPE_CHECKING:
    from filters.calibration import Side
    from pipelines.label.queue import Strategy

_SIDES: dict[str, Side] = {"above": "above", "below": "below"}
_STRATEGIES: dict[str, Strategy] = {
    "uncertain": "uncertain",
    "disagreement": "disagreement",
    "near-misses": "near-misses",
    "random": "random",
}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the page here.")
@click.option("--read", type=click.Path(path_type=Path), help="Decisions that such a page let you download.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="The labels so far: what they cover is not asked again, and --read adds to them.",
)
@click.option("-n", "size", type=click.IntRange(min=1), default=100, show_default=True, help="Samples.")
@click.option(
    "--strategy",
    "strategies",
    type=click.Choice(list(_STRATEGIES)),
    multiple=True,
    help="What makes a sample worth a label; of several, samples are taken in turn.  [default: random]",
)
@click.option("--score", "scores", metavar="NAME", multiple=True, help="Scores to go by and to show.")
@click.option("--threshold", type=float, help="Of the first score: for uncertain and near-misses.")
@click.option("--side", type=click.Choice(list(_SIDES)), default="above", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For random.")
@label_options
@root_option
def label(
    out: Path | None,
    read: Path | None,
    labels: Path | None,
    size: int,
    strategies: tuple[str, ...],
    scores: tuple[str, ...],
    threshold: float | None,
    side: str,
    seed: int,
    category: str | None,
    policy: str,
    annotation: str | None,
    root: Path,
) -> None:
    """Ask for labels with a page of blurred pictures (--out), or take in the decisions made on it (--read).

    Labels of random samples give rates of the whole corpus; the other strategies find errors sooner, and
    `unclip calibrate` says so where it is given such labels.

    \b unclip label --out queue.html -n 100 --category sexual --score explicit_image --strategy uncertain
    --threshold 0.8 unclip label --read decisions.csv --labels labels.csv
    """
    from workflows.labelled import read_decisions, write_queue
    from workflows.refusal import Refusal

    if (out is None) == (read is None):
        raise Refusal("expected either --out PAGE or --read DECISIONS")
    if read is not None:
        if labels is None:
            raise Refusal("--read: add --labels FILE, the file that the decisions go into")
        click.echo(read_decisions(read, labels, root, annotation, policy))
    elif out is not None:
        if category is None:
            raise Refusal("--out: add --category, what the samples are to be labelled for")
        from pipelines.label.queue import Asked

        asked = Asked(
            category=category,
            strategies=[_STRATEGIES[name] for name in strategies or ("random",)],
            scores=list(dict.fromkeys(scores)),
            threshold=threshold,
            side=_SIDES[side],
            size=size,
            seed=seed,
        )
        click.echo(write_queue(out, asked, labels, root, annotation, policy))
