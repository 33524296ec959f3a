"""One evaluation of the tiny cascade, and its model, shared by the tests that look at their parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.journal import Journal
from infra.progress import Progress
from infra.store import Artifact, Draft, Store, finish
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.step import Evaluate
from pipelines.register import Register, RegisterConfig
from pipelines.step import Context, Resources, step_config
from tests.tiny_cascade import SAMPLING, tiny_cascade

CONFIG = EvaluateConfig(
    corpus="-",
    embeddings="-",
    verdict="-",
    prior="-",
    decoder="-",
    sampling=SAMPLING,
    prompts=("red heart", "cat"),
    posterior_samples=4,
    loss_samples=8,
    loss_draws=2,
    generated=8,
    reference=8,
    upsampled=4,
    threads=1,
    attribution="OpenMoji, CC BY-SA 4.0",
)


def run_evaluate(
    root: Path, name: str, inputs: dict[str, Artifact], config: EvaluateConfig = CONFIG
) -> Draft:
    draft = Store(root).draft("evaluation", name.ljust(64, "0"))
    context = Context(
        config=config,
        resources=Resources(),
        inputs=inputs,
        draft=draft,
        journal=Journal(root / f"{name}.jsonl"),
        progress=Progress("evaluate", quiet=True),
    )
    summary = Evaluate().run(context)
    step = {"kind": "evaluate", "version": Evaluate.version, "config": step_config(config)}
    finish(draft, step=step, inputs=inputs, summary=summary, seconds=0.0, rows=context.fixed_rows[0])
    return draft


def run_register(root: Path, name: str, inputs: dict[str, Artifact], config: RegisterConfig) -> Artifact:
    draft = Store(root).draft("model", name.ljust(64, "0"))
    context = Context(
        config=config,
        resources=Resources(),
        inputs=inputs,
        draft=draft,
        journal=Journal(root / f"{name}.jsonl"),
        progress=Progress("register", quiet=True),
    )
    summary = Register().run(context)
    step = {"kind": "register", "version": Register.version, "config": step_config(config)}
    return finish(draft, step=step, inputs=inputs, summary=summary, seconds=0.0, rows=context.fixed_rows[0])


@pytest.fixture(scope="session")
def stages(
    tmp_path_factory: pytest.TempPathFactory, corpus: Artifact, annotation: Artifact
) -> dict[str, Artifact]:
    return tiny_cascade(tmp_path_factory.mktemp("cascade"), corpus, annotation)


@pytest.fixture(scope="session")
def evaluation(
    tmp_path_factory: pytest.TempPathFactory, stages: dict[str, Artifact], verdict: Artifact
) -> Artifact:
    root = tmp_path_factory.mktemp("evaluation")
    return Artifact.open(run_evaluate(root, "e", stages | {"verdict": verdict}).path)


@pytest.fixture(scope="session")
def model(
    tmp_path_factory: pytest.TempPathFactory, stages: dict[str, Artifact], evaluation: Artifact
) -> Artifact:
    config = RegisterConfig(evaluation="-", corpus="-", embeddings="-", prior="-", decoder="-")
    return run_register(tmp_path_factory.mktemp("model"), "m", stages | {"evaluation": evaluation}, config)
