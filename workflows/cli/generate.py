"""`unclip generate`: pictures from prompts, by the newest model of a root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workflows.cli.options import root_option

if TYPE_CHECKING:
    from infra.store import Artifact


@click.command()
@click.argument("prompts", nargs=-1, required=True)
@click.option(
    "-n", "count", type=click.IntRange(min=1), default=1, show_default=True, help="Pictures a prompt."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="Folder."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--guidance", type=float, help="The decoder's guidance scale, instead of the model's own.")
@click.option("--steps", type=click.IntRange(min=1), help="Sampling steps of prior and decoder.")
@click.option(
    "--tile", type=click.IntRange(min=1), metavar="PX", help="Upsample over tiles, where memory is short."
)
@click.option("--model", metavar="ADDRESS|DIR", help="Instead of the root's newest model.")
@root_option
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def generate(
    prompts: tuple[str, ...],
    count: int,
    out: Path,
    seed: int,
    guidance: float | None,
    steps: int | None,
    tile: int | None,
    model: str | None,
    root: Path,
    quiet: bool,
) -> None:
    """Draw PROMPTS with a registered model; prints the paths written.

    \b
    unclip generate "a red heart" -n 4 --out out/
    unclip generate "a cat face" "a yellow star" --seed 7 --guidance 3
    """
    from infra.machine import folder_problem
    from workflows.refusal import Refusal

    if problem := folder_problem(out, "--out"):
        raise Refusal(problem)
    for prompt in prompts:
        if not prompt.strip():
            raise Refusal("the prompt is empty; describe the picture")
    folder = model_folder(model, root)

    from infra.progress import Progress
    from pipelines.cascade_io import CascadeError
    from pipelines.generate import GenerateError
    from pipelines.generate import generate as draw

    progress = Progress("generate", quiet=quiet)
    try:
        paths = draw(
            folder,
            prompts,
            n=count,
            seed=seed,
            out_dir=out,
            guidance=guidance,
            steps=steps,
            tile=tile,
            progress=progress,
        )
    except (CascadeError, GenerateError) as error:
        raise Refusal(str(error)) from error
    for path in paths:
        click.echo(str(path))


def model_folder(model: str | None, root: Path) -> Path:
    """The folder of the model asked for, or of the root's newest; raises `Refusal` where there is none."""
    from infra.store import Store
    from workflows.refusal import Refusal

    if model is not None and Path(model).is_dir():
        return Path(model)
    models = [artifact for artifact in Store(root).artifacts() if artifact.kind == "model"]
    if model is not None:
        found = [artifact for artifact in models if artifact.address.startswith(model)]
        if len(found) != 1:
            known = ", ".join(artifact.address[:20] for artifact in models) or "none"
            raise Refusal(f"--model {model}: {len(found)} models match; in {root}: {known}")
        return found[0].path
    if not models:
        raise Refusal(f"no model in {root} yet: make one with `unclip run demo --root {root}`")
    return max(models, key=_finished_at).path


def _finished_at(artifact: Artifact) -> float:
    return float(artifact.host["finished_at"])
