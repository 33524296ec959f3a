"""Held-out losses: the baselines are the best of their kind, and trained means trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from infra.store import Artifact
from models.config import DiffusionConfig
from pipelines.cascade_io import open_stage
from pipelines.evaluate.losses import constant_predictor, evaluate_losses
from pipelines.train.stream import Batch
from tests.tiny_cascade import DIM


def embeddings(n: int, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(n, DIM)) + 1
    unit = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return Batch(
        keys=tuple(map(str, range(n))),
        captions=("",) * n,
        positions=np.arange(n),
        weight=np.ones(n, np.float32),
        image_embedding=unit,
        text_embedding=unit,
        tokens=np.zeros((n, 4), np.int64),
        mask=np.zeros((n, 4), bool),
        image_u8=None,
    )


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_constant_is_the_best_constant(prediction: str) -> None:
    """No shift of it, the same for all samples of a timestep, has a lower loss."""
    config = DiffusionConfig(steps=20, prediction=prediction, variance="fixed_small")  # type: ignore[arg-type]
    process = config.build()
    torch.manual_seed(0)
    x0, noise = torch.randn(20_000, 2) * 0.5 + torch.tensor([1.0, -2.0]), torch.randn(20_000, 2)
    predict = constant_predictor(config, torch.tensor([1.0, -2.0]))
    for step in (0, 7, 19):
        t = torch.full((len(x0),), step)
        x_t = process.q_sample(x0, t, noise)

        def loss(shift: float, t: torch.Tensor = t, x_t: torch.Tensor = x_t) -> float:
            return float(process.training_losses(predict(x_t, t) + shift, x0, x_t, t, noise).mean())

        assert loss(0.0) < loss(0.1)
        assert loss(0.0) < loss(-0.1)


def test_a_network_that_knows_the_answer_is_far_below_both(stages: dict[str, Artifact]) -> None:
    stage = open_stage(stages["prior"].path)
    test, train = embeddings(32, 0), embeddings(64, 1)

    def cheat(x_t, t, tokens, mask, text, drop):  # type: ignore[no-untyped-def]  # noqa: ARG001
        # In this data the text embedding is the image embedding.
        return text * 17.2 * (DIM / 1024) ** 0.5

    figures = evaluate_losses(stage, cheat, test, train, draws=2, seed=0, batch=7)
    assert figures["loss_trained"].value == pytest.approx(0, abs=1e-9)
    assert figures["loss_constant"].value > 0.001
    assert figures["loss_below_constant_in_standard_errors"].value > 3
    assert figures["loss_below_untrained_in_standard_errors"].value > 3


def test_losses_do_not_depend_on_the_batch_size(stages: dict[str, Artifact]) -> None:
    stage = open_stage(stages["prior"].path)
    torch.manual_seed(0)
    network, test = stage.config.build().eval(), embeddings(9, 0)
    few, many = (
        evaluate_losses(stage, network, test, test, draws=2, seed=0, batch=batch) for batch in (2, 9)
    )
    assert few["loss_trained"].value == pytest.approx(many["loss_trained"].value, rel=1e-5)
