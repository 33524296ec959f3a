"""A tiny corpus with what lies beside it, and jobs over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from infra.store import Artifact
from models.config import DiffusionConfig, PriorConfig, UpsamplerConfig
from pipelines.train.index import build_index
from pipelines.train.job import TrainJob
from pipelines.train.objectives import PriorObjective, UpsamplerObjective
from pipelines.train.optimiser import OptimiserSettings
from pipelines.train.stream import View
from tests.tiny import tiny_annotation, tiny_corpus, tiny_verdict

CONTEXT, VOCAB = 16, 600
PRIOR_PROCESS = DiffusionConfig(prediction="x0", variance="fixed_small")


@dataclass(frozen=True)
class Tiny:
    """36 fetched images of 64 px: 24 to train on, 4 to validate, 8 to test; embeddings of 16 dimensions."""

    corpus: Artifact
    embeddings: Artifact
    verdict: Artifact
    index: Path

    @property
    def inputs(self) -> dict[str, Artifact]:
        return {"corpus": self.corpus, "embeddings": self.embeddings, "verdict": self.verdict}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("tiny")
    corpus = tiny_corpus(root, count=40, size=64)
    embeddings = tiny_annotation(root, corpus, dimension=16)
    verdict = tiny_verdict(root, corpus)
    build_index(root / "index.arrow", corpus, embeddings, verdict, context=CONTEXT, vocab_size=VOCAB)
    return Tiny(corpus=corpus, embeddings=embeddings, verdict=verdict, index=root / "index.arrow")


@pytest.fixture
def prior_job(tiny: Tiny, tmp_path: Path) -> Callable[..., TrainJob]:
    """A job of 12 updates on a prior with dropout (whose random numbers a resume must repeat)."""
    network = PriorConfig(
        embedding_dim=16, context=CONTEXT, width=16, layers=1, heads=2, vocab_size=VOCAB, dropout=0.1
    )

    def make(name: str = "run", **changes: Any) -> TrainJob:
        job = TrainJob(
            network=network,
            objective=PriorObjective(diffusion=PRIOR_PROCESS, embedding_dim=16),
            index=tiny.index,
            view=None,
            optimiser=OptimiserSettings(lr=1e-3, weight_decay=0.01, warmup_steps=3, lr_decay="cosine"),
            steps=12,
            batch=8,
            seed=3,
            work=tmp_path / name,
            journal=tmp_path / name / "journal.jsonl",
            log_every=2,
            validate_every=4,
            checkpoint_every=4,
            prefetch=0,
        )
        return replace(job, **changes)

    return make


@pytest.fixture
def upsampler_job(prior_job: Callable[..., TrainJob]) -> Callable[..., TrainJob]:
    """The same with an upsampler on random crops: 16 to 32 px, crops of 16."""
    network = UpsamplerConfig(
        image_size=32,
        low_res_size=16,
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        norm_groups=4,
        learned_variance=False,
    )
    process = DiffusionConfig(prediction="v", variance="fixed_small")

    def make(name: str = "run", **changes: Any) -> TrainJob:
        objective = UpsamplerObjective(diffusion=process, scale=2, degradation="bsr")
        stage = {"network": network, "objective": objective, "view": View(side=32, crop=16)}
        return prior_job(name, **(stage | changes))

    return make
