"""A tiny corpus with what lies beside it, and jobs over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.store import Artifact
from models.config import ARPriorConfig, DiffusionConfig, PriorConfig, UpsamplerConfig
from models.embedding_codec import EmbeddingCodec
from models.pca import Pca
from pipelines.train.index import build_index
from pipelines.train.job import TrainJob
from pipelines.train.objectives import ARPriorObjective, PriorObjective, UpsamplerObjective
from pipelines.train.optimiser import OptimiserSettings
from pipelines.train.stream import Stream, View
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
def ar_prior_job(prior_job: Callable[..., TrainJob], tiny: Tiny, tmp_path: Path) -> Callable[..., TrainJob]:
    """The same with an autoregressive prior, whose codec is fitted beforehand."""
    config = ARPriorConfig(
        embedding_dim=16,
        components=8,
        vocab_size=VOCAB,
        text_context=CONTEXT,
        text_width=16,
        text_layers=1,
        text_heads=2,
        context=9,
        width=16,
        layers=1,
        heads=2,
        buckets=16,
        dropout=0.1,
    )
    batch = Stream(tiny.index, split="train", seed=0).read(0, 24)
    images, texts = torch.from_numpy(batch.image_embedding), torch.from_numpy(batch.text_embedding)
    codec = EmbeddingCodec.fit(Pca.fit([images], 8), [(images, texts)], buckets=16)
    torch.save({f"codec.{name}": x for name, x in codec.named_buffers()}, tmp_path / "buffers.pt")

    def make(name: str = "run", **changes: Any) -> TrainJob:
        buffers = tmp_path / "buffers.pt"
        stage = {"network": config, "objective": ARPriorObjective(), "buffers": buffers}
        return prior_job(name, **(stage | changes))

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
