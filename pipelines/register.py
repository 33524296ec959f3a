"""The step `register`: evaluated stages into one model folder, if its figures are good enough.

The folder is what `unclip generate` reads and what the workflow hands to the model registry
(`infra/model_registry.py`): weights, `cascade.json`, the encoder's heads, the evaluation, a model card, and
the loader that MLflow runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from infra.model_registry import EXAMPLE_FILE, LOADER_FILE
from infra.store import Artifact, Rows
from pipelines.model_card import model_card
from pipelines.step import Context, Estimate, Resources, Step, StepConfig, input_of

if TYPE_CHECKING:
    from models.cascade import UnCLIP

UPSAMPLERS = ("upsampler_256", "upsampler_1024")
EVALUATION_FILES = ("evaluation.json", "grid.png", "overview.png")
CARD_FILE = "README.md"
LOADER = Path(__file__).with_name("mlflow_model.py")


class NotGoodEnoughError(ValueError):
    """The evaluation misses a threshold that registration requires."""


class Bound(BaseModel):
    """What a figure must reach: at least `min`, at most `max`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = None
    max: float | None = None


class RegisterConfig(StepConfig):
    """The stages of the model, their evaluation, and what it must have shown."""

    evaluation: str = input_of("evaluation")
    corpus: str = input_of("corpus")
    embeddings: str = input_of("embeddings", "annotation")
    clip_heads: str | None = input_of("clip_heads", optional=True)
    prior: str = input_of("prior")
    decoder: str = input_of("decoder")
    upsampler_256: str | None = input_of("upsampler", optional=True)
    upsampler_1024: str | None = input_of("upsampler", optional=True)

    require: dict[str, Bound | None] | None = None
    """Thresholds on the evaluation's summary, `upsampler_256_psnr_db_gain: {min: 0}`; null, for all or
    for one figure that the extended recipe requires: none."""
    example_prompt: str = "a red heart"
    attribution: str = ""
    """Of the corpus's images; goes into the model card."""
    licence: str = ""
    """Of the model; goes into the model card."""


class Register(Step[RegisterConfig, Resources]):
    """One folder per model; see the module's docstring."""

    kind = "register"
    produces = "model"
    version = 2
    Config = RegisterConfig

    def estimate(self, config: RegisterConfig, inputs: Mapping[str, Estimate]) -> Estimate:  # noqa: ARG002
        """The averaged weights are copied: one of the ten tensors a parameter that a training plans for."""
        stages = [e for name, e in inputs.items() if name in ("prior", "decoder", *UPSAMPLERS)]
        return Estimate(rows=1, disk_bytes=sum(e.disk_bytes for e in stages) // 10, seconds=5)

    def run(self, context: Context[RegisterConfig, Resources]) -> dict[str, Any]:
        """Write the folder.  Raises `NotGoodEnoughError` before anything is written, naming every miss."""
        from models.config import parameter_count
        from pipelines.cascade_io import compose, open_stage

        inputs, config = context.inputs, context.config
        require(inputs["evaluation"].summary, config.require or {})
        _same_stages(inputs)
        stages = [
            open_stage(inputs[name].path) for name in ("prior", "decoder", *UPSAMPLERS) if name in inputs
        ]
        model = compose(stages[0], stages[1], stages[2:])
        folder = context.draft.work / "model"
        shutil.rmtree(folder, ignore_errors=True)
        digest = _write_model(folder, model, inputs)
        example = {"prompt": [config.example_prompt]}
        (folder / EXAMPLE_FILE).write_text(json.dumps(example) + "\n")
        card = model_card(model, digest, inputs, attribution=config.attribution, licence=config.licence)
        (folder / CARD_FILE).write_text(card)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            context.draft.commit_file(file.relative_to(folder).as_posix(), file)
        context.journal.artifact(context.draft.path / CARD_FILE, "model")
        context.fixed_rows.append(Rows(total=1, kept=1))
        return {"model": digest, "parameters": parameter_count(model)}


def _write_model(folder: Path, model: UnCLIP, inputs: Mapping[str, Artifact]) -> str:
    """Weights, `cascade.json`, evaluation and loader; returns the model's digest."""
    from models.sampling import CascadeSampling
    from pipelines.aligned import encoder_identity
    from pipelines.cascade_io import write_cascade

    evaluation = inputs["evaluation"]
    digest = write_cascade(
        folder,
        model,
        # What is registered samples as it was evaluated.
        sampling=CascadeSampling.from_dict(evaluation.config["sampling"]),
        encoder=evaluation.config["encoder"],
        encoder_identity=encoder_identity(inputs["embeddings"]),
        heads=inputs["clip_heads"].path if "clip_heads" in inputs else None,
    )
    for name in EVALUATION_FILES:
        shutil.copyfile(evaluation.path / name, folder / name)
    shutil.copyfile(LOADER, folder / LOADER_FILE)
    return digest


def require(summary: Mapping[str, Any], bounds: Mapping[str, Bound | None]) -> None:
    """Raise `NotGoodEnoughError` listing every figure that is missing or out of its bounds."""
    problems = []
    for name, bound in sorted(bounds.items()):
        if bound is None:
            continue
        value = summary.get(name)
        if not isinstance(value, int | float):
            problems.append(f"{name}: not measured")
        elif bound.min is not None and value < bound.min:
            problems.append(f"{name}: {value:.4g} is below {bound.min:g}")
        elif bound.max is not None and value > bound.max:
            problems.append(f"{name}: {value:.4g} is above {bound.max:g}")
    if problems:
        raise NotGoodEnoughError(
            f"not registered, {len(problems)} of {len(bounds)} requirements missed: {'; '.join(problems)}. "
            f"Train longer, or change `require` of the register step"
        )


def _same_stages(inputs: Mapping[str, Artifact]) -> None:
    """What is registered must be what was evaluated."""
    evaluated = inputs["evaluation"].manifest["inputs"]
    for name in ("prior", "decoder", *UPSAMPLERS, "clip_heads"):
        ours = inputs[name].content if name in inputs else None
        theirs = evaluated[name]["content"] if name in evaluated else None
        if ours != theirs:
            raise NotGoodEnoughError(
                f"{name}: the evaluation is of {_short(theirs)}, this step was given {_short(ours)}; "
                f"wire both to the same steps"
            )


def _short(content: str | None) -> str:
    return "none" if content is None else f"{content[:12]}…"
