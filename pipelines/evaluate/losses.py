"""Held-out denoising loss of a trained network beside two that know nothing.

The loss is L_simple, the mean squared error of what the network predicts (2006.11239, eq. 14), with every
condition given and without the variational term of learned variances.  The same images, timesteps and noise
go to all three predictors, so differences are paired: what makes an image or a timestep hard cancels.

- untrained: the same class, freshly initialised.  Networks end in a layer of zeros, so it predicts 0, or, for
  a residual upsampler, its resized input.
- constant: the best prediction that looks at nothing, from the mean of training images or embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.config import DecoderConfig, DiffusionConfig, PriorConfig, UpsamplerConfig
from models.prior import embedding_scale
from pipelines.cascade_io import Stage
from pipelines.evaluate.statistics import (
    NORMAL_QUANTILE,
    Figure,
    mean,
    paired_difference,
    standard_errors_below,
)
from pipelines.train.draws import Draws, Purpose
from pipelines.train.objectives import (
    DecoderObjective,
    Network,
    Objective,
    PriorObjective,
    UpsamplerObjective,
)
from pipelines.train.stream import Batch


def evaluate_losses(
    stage: Stage, network: Network, test: Batch, train: Batch, *, draws: int, seed: int, batch: int
) -> dict[str, Figure]:
    """Mean loss of the trained network and of both baselines on `test`, and how far it lies below them.

    Each sample is noised `draws` times.  `train` only serves the constant predictor; both batches hold what
    the stage sees (embeddings, images, or crops).
    """
    diffusion = _simple(stage.process)
    networks = {
        "trained": _mean_half(network, stage),
        "untrained": _mean_half(_untrained(stage, seed), stage),
        "constant": constant_predictor(diffusion, mean_x0(stage, train)),
    }
    losses = _losses(objective_of(stage, diffusion), networks, test, draws=draws, seed=seed, batch=batch)
    figures = {
        f"loss_{name}": mean(values, seed=seed, what=f"denoising loss, {name}")
        for name, values in losses.items()
    }
    for name in ("untrained", "constant"):
        figures[f"loss_below_{name}"] = paired_difference(
            losses[name], losses["trained"], seed=seed, what=f"denoising loss, {name} minus trained"
        )
        figures[f"loss_below_{name}_in_standard_errors"] = below_in_standard_errors(
            losses["trained"], losses[name], name
        )
    return figures


def below_in_standard_errors(
    trained: Float[np.ndarray, " n"], baseline: Float[np.ndarray, " n"], name: str
) -> Figure:
    """How far `trained` lies below the baseline called `name`, as a figure."""
    below = standard_errors_below(trained, baseline)
    return Figure(
        value=below,
        low=below - NORMAL_QUANTILE,
        high=below + NORMAL_QUANTILE,
        standard_error=1.0,
        n=len(trained),
        what=f"the same difference in paired standard errors ({name})",
    )


def objective_of(stage: Stage, diffusion: DiffusionConfig) -> Objective:
    """The stage's training objective, with no condition dropped."""
    config = stage.config
    if isinstance(config, PriorConfig):
        return PriorObjective(diffusion=diffusion, embedding_dim=config.embedding_dim, drop_text=0.0)
    if isinstance(config, DecoderConfig):
        seen = config.embedding_dim is not None
        return DecoderObjective(diffusion=diffusion, image=seen, drop_image=0.0, drop_text=0.0)
    return upsampler_objective(stage, diffusion)


def upsampler_objective(stage: Stage, diffusion: DiffusionConfig | None = None) -> UpsamplerObjective:
    """The objective of an upsampler, with the degradation it was trained on."""
    config = stage.config
    if not isinstance(config, UpsamplerConfig):
        raise TypeError(f"expected an upsampler, got {type(config).__name__} in {stage.weights.parent}")
    return UpsamplerObjective(
        diffusion=diffusion or stage.process,
        scale=config.scale,
        degradation=stage.training["objective"]["degradation"],
        noise_conditioning=config.noise_conditioning,
        text=config.text is not None,
        drop_text=0.0,
    )


def mean_x0(stage: Stage, train: Batch) -> Float[Tensor, "*shape"]:
    """Mean of what the stage diffuses, over training samples."""
    if isinstance(stage.config, PriorConfig):
        scale = embedding_scale(stage.config.embedding_dim)
        return torch.from_numpy(train.image_embedding.mean(axis=0) * np.float32(scale))
    assert train.image_u8 is not None
    return torch.from_numpy(train.image_u8.mean(axis=0, dtype=np.float64) / 127.5 - 1).float()


def constant_predictor(diffusion: DiffusionConfig, x0: Float[Tensor, "*shape"]) -> Network:
    """The best constant for what the process predicts: noise has mean 0, x0 its own mean, v a mix of both."""
    process = diffusion.build()

    def predict(x_t: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:  # noqa: ARG001
        if process.prediction == "epsilon":
            return torch.zeros_like(x_t)
        if process.prediction == "x0":
            return x0.expand_as(x_t)
        # v = sqrt(abar) eps - sqrt(1 - abar) x0, and eps has mean 0.
        weight = (1 - process.alphas_cumprod[t]).sqrt().to(x_t.dtype)
        return -weight.reshape(-1, *[1] * (x_t.ndim - 1)) * x0

    return predict


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    columns = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    chosen: dict[str, Any] = {k: None if column is None else column[rows] for k, column in columns.items()}
    return Batch(**chosen)


@torch.inference_mode()
def _losses(
    objective: Objective,
    networks: Mapping[str, Network],
    test: Batch,
    *,
    draws: int,
    seed: int,
    batch: int,
) -> dict[str, np.ndarray]:
    """Loss of each sample, averaged over its draws."""
    totals = {name: np.zeros(len(test)) for name in networks}
    for draw in range(draws):
        for start in range(0, len(test), batch):
            rows = slice(start, min(start + batch, len(test)))
            part = rows_of(test, rows)
            # Positions number the samples; every draw of every sample has its own.
            positions = np.arange(rows.start, rows.stop) * draws + draw
            for name, network in networks.items():
                generators = Draws(seed, Purpose.VALIDATION, positions)
                totals[name][rows] += objective.losses(network, part, generators).double().numpy()
    return {name: total / draws for name, total in totals.items()}


def _simple(diffusion: DiffusionConfig) -> DiffusionConfig:
    return dataclasses.replace(diffusion, variance="fixed_small")


def _mean_half(network: Network, stage: Stage) -> Network:
    """The network without the variance half of its output, where it has one."""
    if stage.process.variance != "learned_range":
        return network

    def mean_half(x_t: Tensor, *rest: Tensor) -> Tensor:
        return network(x_t, *rest)[:, : x_t.shape[1]]

    return mean_half


def _untrained(stage: Stage, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return stage.config.build().eval()
