"""`unclip vary|reconstruct|interpolate|textdiff|inpaint`: images of images, by the newest model of a root."""

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
    """What all of these commands share."""
    for option in (
        root_option,
        click.option("--model", metavar="ADDRESS|DIR", help="Instead of the root's newest model."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=Path("out"),
            show_default=True,
            help="Folder.",
        ),
    ):
        command = option(command)
    return command


steps_option = click.option("--steps", type=click.IntRange(min=1), default=50, show_default=True)
count_option = click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True)


@click.command()
@click.argument("image", type=image_argument)
@click.option(
    "--eta",
    type=click.FloatRange(0, 1),
    default=0.7,
    show_default=True,
    help="How far details may move; 0 gives the image itself back.",
)
@steps_option
@count_option
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


def _numbers(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"expected whole numbers such as 20,40,80, got {value!r}") from None
    return numbers


@click.command()
@click.argument("image", type=image_argument)
@click.option(
    "--pca",
    "kept",
    callback=_numbers,
    metavar="K,K,...",
    help="One picture from so many principal components of its embedding each, over one fixed noise.",
)
@click.option(
    "--embeddings",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --pca: a .npy table of image embeddings, instead of the root's newest.",
)
@steps_option
@_options
def reconstruct(image: Path, kept: tuple[int, ...], embeddings: Path | None, **settings: Any) -> None:
    """Draw IMAGE as the model remembers it: inverted to its noise and back, or from a part of its embedding.

    \b
    unclip reconstruct cat.png --out out/
    unclip reconstruct cat.png --pca 20,40,80,160 --out out/
    """
    from workflows.refusal import Refusal

    if embeddings is not None and not kept:
        raise Refusal("--embeddings belongs to --pca: say how many components, as in --pca 20,40,80")

    def draw(m: Any, sampler: Sampler, pictures: list[np.ndarray], how: dict[str, Any]) -> Any:
        from pipelines import embedding_basis

        if not kept:
            return m.reconstruct(sampler, pictures[0], **how)
        cascade = sampler.cascade
        if embeddings is not None:
            pca = embedding_basis.basis_of_file(embeddings, cascade.encoder_identity["dimension"])
        else:
            pca = embedding_basis.basis_of_root(settings["root"], cascade.encoder_identity)
        return m.principal(sampler, pictures[0], pca, kept, **how)

    _run([image], "reconstruct", draw, **settings)


@click.command()
@click.argument("first", type=image_argument)
@click.argument("last", type=image_argument)
@click.option(
    "--noise",
    type=click.Choice(["slerp", "fixed"]),
    default="slerp",
    show_default=True,
    help="Turn the noise from one image's to the other's, so that the ends are the images, or fix one.",
)
@steps_option
@count_option
@_options
def interpolate(first: Path, last: Path, noise: str, **settings: Any) -> None:
    """Draw the way from image FIRST to image LAST.

    \b
    unclip interpolate cat.png dog.png -n 8 --out out/
    """
    _run(
        [first, last],
        "interpolate",
        lambda m, s, pictures, how: m.interpolate(s, *pictures, noise=noise, **how),
        **settings,
    )


@click.command()
@click.argument("image", type=image_argument)
@click.argument("prompt")
@click.option("--from", "baseline", required=True, help="What the image shows now; the prompt's counterpart.")
@click.option(
    "--most", type=click.FloatRange(0, 1), default=0.35, show_default=True, help="How far to go; 0.25 to 0.5."
)
@click.option(
    "--arithmetic",
    is_flag=True,
    help="Add the difference of the two texts' embeddings, --most times, instead of turning towards it.",
)
@steps_option
@count_option
@_options
def textdiff(image: Path, prompt: str, baseline: str, most: float, arithmetic: bool, **settings: Any) -> None:
    """Change IMAGE towards PROMPT, as far as that differs from --from.

    \b
    unclip textdiff cat.png "a blue cat" --from "a cat" --out out/
    """
    _run(
        [image],
        "textdiff",
        lambda m, s, pictures, how: m.text_diff(
            s, pictures[0], prompt, baseline, most=most, arithmetic=arithmetic, **how
        ),
        **settings,
    )


@click.command()
@click.argument("image", type=image_argument)
@click.argument("prompt")
@click.option(
    "--mask",
    type=image_argument,
    required=True,
    help="An image of the same size: white stays, black is painted anew.",
)
@count_option
@_options
def inpaint(image: Path, prompt: str, mask: Path, **settings: Any) -> None:
    """Paint PROMPT into IMAGE where the mask is black; the rest stays as it is.

    A model that was fine-tuned for it sees what stays; another is only held to it, and its edges may show.

    \b
    unclip inpaint cat.png "a cat with a red hat" --mask hat.png -n 4 --out out/
    """
    _run(
        [image, mask],
        "inpaint",
        lambda m, s, pictures, how: m.inpaint(s, *pictures, prompt, **how),
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
    from pipelines.generate import Sampler, write_pictures

    try:
        pictures = [manipulate.read_picture(path) for path in paths]
        sampler = Sampler.load(folder)
        drawn = draw(manipulate, sampler, pictures, how)
    except ValueError as error:  # also the models' own, of what they cannot do
        raise Refusal(str(error)) from error
    label = " ".join([name, *(path.name for path in paths)])
    for path in write_pictures(sampler, [stages[-1] for stages in drawn], out, label, seed=how["seed"]):
        click.echo(str(path))
