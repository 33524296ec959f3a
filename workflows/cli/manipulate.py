"""`unclip vary|interpolate|textdiff`: images made of images, by the newest model of a root."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workflows.cli.generate import model_folder
from workflows.cli.options import root_option

if TYPE_CHECKING:
    import numpy as np

    from pipelines.generate import Sampler

image_argument = click.Path(path_type=Path, dir_okay=False)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the three commands share."""
    for option in (
        root_option,
        click.option("--model", metavar="ADDRESS|DIR", help="Instead of the root's newest model."),
        click.option("--steps", type=click.IntRange(min=1), default=50, show_default=True),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=Path("out"),
            show_default=True,
            help="Folder.",
        ),
        click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("image", type=image_argument)
@click.option(
    "--eta",
    type=click.FloatRange(0, 1),
    default=0.7,
    show_default=True,
    help="How far details may move; 0 gives the image itself back.",
)
@_options
def vary(image: Path, eta: float, **settings: Any) -> None:
    """Draw IMAGE again with other details.

    \b
    unclip vary cat.png -n 4 --out out/
    """
    _run(
        [image],
        "vary",
        lambda m, s, pictures, how: m.vary(s, pictures[0], eta=eta, **how),
        **settings,
    )


@click.command()
@click.argument("first", type=image_argument)
@click.argument("last", type=image_argument)
@_options
def interpolate(first: Path, last: Path, **settings: Any) -> None:
    """Draw the way from image FIRST to image LAST.

    \b
    unclip interpolate cat.png dog.png -n 8 --out out/
    """
    _run(
        [first, last],
        "interpolate",
        lambda m, s, pictures, how: m.interpolate(s, *pictures, **how),
        **settings,
    )


@click.command()
@click.argument("image", type=image_argument)
@click.argument("prompt")
@click.option("--from", "baseline", required=True, help="What the image shows now; the prompt's counterpart.")
@click.option(
    "--most", type=click.FloatRange(0, 1), default=0.35, show_default=True, help="How far to go; 0.25 to 0.5."
)
@_options
def textdiff(image: Path, prompt: str, baseline: str, most: float, **settings: Any) -> None:
    """Change IMAGE towards PROMPT, as far as that differs from --from.

    \b
    unclip textdiff cat.png "a blue cat" --from "a cat" --out out/
    """
    _run(
        [image],
        "textdiff",
        lambda m, s, pictures, how: m.text_diff(s, pictures[0], prompt, baseline, most=most, **how),
        **settings,
    )


def _run(
    paths: list[Path],
    name: str,
    draw: Callable[[Any, Sampler, list[np.ndarray], dict[str, Any]], list[list[np.ndarray]]],
    *,
    out: Path,
    model: str | None,
    root: Path,
    **how: Any,
) -> None:
    from infra.machine import folder_problem
    from workflows.refusal import Refusal

    if problem := folder_problem(out, "--out"):
        raise Refusal(problem)
    folder = model_folder(model, root)

    from pipelines import manipulate
    from pipelines.cascade_io import CascadeError
    from pipelines.generate import GenerateError, Sampler, write_pictures

    try:
        pictures = [manipulate.read_picture(path) for path in paths]
        sampler = Sampler.load(folder)
        drawn = draw(manipulate, sampler, pictures, how)
    except (CascadeError, GenerateError) as error:
        raise Refusal(str(error)) from error
    label = " ".join([name, *(path.name for path in paths)])
    for path in write_pictures(sampler, [stages[-1] for stages in drawn], out, label, seed=how["seed"]):
        click.echo(str(path))
