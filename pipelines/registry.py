"""Every step a recipe may name.  Values are import paths, so that listing steps imports none of them."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from pipelines.step import Step

STEPS: dict[str, str] = {
    "openmoji_site": "pipelines.demo.site:OpenMojiSite",
    "acquire": "pipelines.acquire.step:Acquire",
    "adopt": "pipelines.adopt.step:Adopt",
    "annotate": "pipelines.annotate.step:Annotate",
    "deduplicate": "pipelines.deduplicate:Deduplicate",
    "judge": "pipelines.judge.step:Judge",
    "approve": "pipelines.judge.approve:Approve",
    "export": "pipelines.export.step:Export",
    "train_clip": "pipelines.train_clip:TrainClip",
    "embed": "pipelines.embed:Embed",
    "train_prior": "pipelines.train.prior_steps:TrainPrior",
    "train_ar_prior": "pipelines.train.prior_steps:TrainARPrior",
    "train_decoder": "pipelines.train.steps:TrainDecoder",
    "train_upsampler": "pipelines.train.steps:TrainUpsampler",
    "evaluate": "pipelines.evaluate.step:Evaluate",
    "register": "pipelines.register:Register",
}


class UnknownStepError(ValueError):
    """A step kind that is not registered."""


def load_step(kind: str) -> Step[Any, Any]:
    """The step registered as `kind`; raises `UnknownStepError` naming the nearest known one."""
    if kind not in STEPS:
        near = difflib.get_close_matches(kind, STEPS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownStepError(f"unknown step kind {kind!r}; {hint}known: {', '.join(sorted(STEPS))}")
    module, _, name = STEPS[kind].partition(":")
    step: Step[Any, Any] = getattr(import_module(module), name)()
    return step
