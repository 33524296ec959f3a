"""`unclip fit`: a light classifier on stored embeddings, from labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workflows.cli.options import json_option, label_options, root_option

if TYPE_CHECKING:
    from filters.classifier_fit import Kind

_KINDS: dict[str, Kind] = {"logistic": "logistic", "rbf": "rbf"}


@click.command()
@click.option("--labels", type=click.Path(path_type=Path), required=True, help="CSV: key,category,label.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The classifier's file, classifier.npz."
)
@click.option(
    "--model",
    "kind",
    type=click.Choice(list(_KINDS)),
    default="logistic",
    show_default=True,
    help="Logistic regression, or a support vector machine with a Gaussian kernel (rbf).",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the folds.")
@label_options
@root_option
@json_option
def fit(
    labels: Path,
    out: Path,
    kind: str,
    seed: int,
    category: str | None,
    policy: str,
    annotation: str | None,
    root: Path,
    as_json: bool,
) -> None:
    """Fit a classifier of one category on the image embeddings of labelled samples.

    Its rates are of labels that were left out (five folds, duplicates together).  A recipe uses the file as
    scorer embedding_classifier, whose score a policy then names; `unclip calibrate` gives its threshold.

    \b
    unclip fit --labels labels.csv --out watermark.npz
    unclip fit --labels labels.csv --category sexual --model rbf --out sexual.npz --json
    """
    from workflows.labelled import choose, fit_classifier, labels_of, samples_of

    samples = samples_of(root, annotation, [])
    chosen = choose(labels_of(labels, samples, policy), samples, category, labels)
    facts = fit_classifier(chosen, samples, _KINDS[kind], out, seed)
    click.echo(json.dumps(facts, indent=1) if as_json else _text(facts))


def _text(facts: dict[str, Any]) -> str:
    told = facts["cross_validation"]
    lines = [
        f"{facts['file']}: {facts['kind']} classifier of {facts['category']!r}, "
        f"{facts['positives']} labels for and {facts['negatives']} against",
        "held-out AUC {:.3f}, {:.3f} to {:.3f}".format(told["auc"], *told["auc_95"]),
    ]
    for name in ("recall", "precision", "false_positive_rate"):
        rate = told["at_half"][name]
        share = "-" if rate["share"] is None else f"{rate['share']:.3f}"
        ends = "{:.3f} to {:.3f}".format(*rate["wilson"])
        lines.append(f"held-out {name.replace('_', ' ')} at .5: {rate['k']} of {rate['n']} ({share}, {ends})")
    if facts["picked"]:
        lines.append(f"{facts['picked']} labels are of samples that were picked: these rates are theirs")
    if facts["merged"]:
        lines.append(f"{facts['merged']} labels are of copies of labelled pictures and were not used again")
    return "\n".join(lines)
