"""A driver that runs one training step as a workflow would: `python -m tests.pipelines.train.driver ROOT`.

Tests kill it, or its ranks, and start it again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from infra.journal import Journal
from infra.progress import Progress
from infra.store import Artifact, Store, finish
from models.config import PriorConfig
from pipelines.step import Context, step_address, step_config
from pipelines.train.config import TrainPriorConfig, TrainResources
from pipelines.train.optimiser import OptimiserSettings
from pipelines.train.prior_steps import TrainPrior
from tests.tiny import tiny_annotation, tiny_corpus, tiny_verdict

CONTEXT, VOCAB = 16, 600

CONFIG = TrainPriorConfig(
    corpus="",
    embeddings="",
    verdict="",
    network=PriorConfig(
        embedding_dim=16, context=CONTEXT, width=16, layers=1, heads=2, vocab_size=VOCAB, dropout=0.1
    ),
    optimiser=OptimiserSettings(lr=1e-3, weight_decay=0.01),
    steps=400,
    batch=8,
    seed=3,
    log_every=20,
    validate_every=100,
    validation_samples=4,
    zero_stage=2,
)
RESOURCES = TrainResources(checkpoint_every=20, prefetch=0)


def inputs(root: Path) -> dict[str, Artifact]:
    corpus = tiny_corpus(root, count=40, size=32)
    return {
        "corpus": corpus,
        "embeddings": tiny_annotation(root, corpus, dimension=16),
        "verdict": tiny_verdict(root, corpus),
    }


def run(root: Path) -> Artifact:
    """Run, or go on with, the step; returns its artifact."""
    step, given = TrainPrior(), inputs(root)
    address = step_address(step, CONFIG, {name: a.content for name, a in given.items()})
    draft = Store(root).draft(step.produces, address)
    context = Context(
        config=CONFIG,
        resources=RESOURCES,
        inputs=given,
        draft=draft,
        journal=Journal(root / "journal.jsonl"),
        progress=Progress("prior", every_s=1),
    )
    summary = step.run(context)
    described = {"kind": step.kind, "version": step.version, "config": step_config(CONFIG)}
    return finish(draft, step=described, inputs=given, summary=summary, seconds=0, rows=context.fixed_rows[0])


if __name__ == "__main__":
    from infra.ray_session import stop_ray

    print(run(Path(sys.argv[1])).path)
    stop_ray()
