"""`unclip import|export`: weights of others as a model folder, a model folder as others load it."""

from __future__ import annotations

from pathlib import Path

import click

from workflows.cli.generate import model_folder
from workflows.cli.options import root_option

out_option = click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder to write; new or empty."
)


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@out_option
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="What the weights do not tell: image_size, num_head_channels, schedule, text_heads; of Karlo also "
    "upsampled_size, prior_heads.",
)
def import_weights(source: Path, out: Path, settings: tuple[str, ...]) -> None:
    """Read weights that others trained; safetensors only.

    SOURCE: the folder of a diffusers unCLIP pipeline or of Karlo's weights, which becomes a model to draw
    with; or one .safetensors file of a U-Net under OpenAI's names (guided-diffusion, GLIDE).

    \b
    unclip import karlo-v1-alpha --out karlo
    unclip generate "a red heart" --model karlo
    unclip import base.safetensors --out glide --set image_size=64 --set num_head_channels=64 \\
        --set text_heads=8 --set schedule=cosine
    """
    from infra.machine import folder_problem
    from pipelines.interop.files import InteropError
    from pipelines.interop.imports import import_weights as run
    from workflows.refusal import Refusal

    if problem := folder_problem(out, "--out"):
        raise Refusal(problem)
    if wrong := [setting for setting in settings if "=" not in setting]:
        raise Refusal(f"--set {wrong[0]}: expected NAME=VALUE")
    try:
        click.echo(str(run(source, out, dict(setting.split("=", 1) for setting in settings))))
    except InteropError as error:
        raise Refusal(str(error)) from error


@click.command()
@click.argument("model", required=False, metavar="ADDRESS|DIR")
@click.option("--layout", type=click.Choice(["diffusers"]), required=True)
@out_option
@root_option
def export(model: str | None, layout: str, out: Path, root: Path) -> None:  # noqa: ARG001
    """Write a model as diffusers' UnCLIPPipeline loads it; the newest of the root unless one is named.

    \b
    unclip export karlo --layout diffusers --out karlo-diffusers
    """
    from infra.machine import folder_problem
    from pipelines.cascade_io import CascadeError
    from pipelines.interop.exports import export_diffusers
    from pipelines.interop.files import InteropError
    from workflows.refusal import Refusal

    if problem := folder_problem(out, "--out"):
        raise Refusal(problem)
    try:
        click.echo(str(export_diffusers(model_folder(model, root), out)))
    except (CascadeError, InteropError) as error:
        raise Refusal(str(error)) from error
