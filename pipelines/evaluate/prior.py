"""The prior on held-out captions: how close its image embeddings come to the true ones, and to what else.

All figures are mean cosines to the true image embedding of the same sample, over samples of the test split,
which no stage has seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from models.cascade import UnCLIP
from models.diffusion.process import Diffusion
from models.prior import DiffusionPrior
from models.sampling import StageSampling
from pipelines.evaluate.held_out import Prompts
from pipelines.evaluate.ridge import cosine, fit_ridge, unit
from pipelines.evaluate.statistics import Figure, derangement, mean, paired_difference
from pipelines.train.stream import Batch

PREDICTIONS = {
    "prior_sample": "one sample of the prior",
    "prior_best_of_two": "of two samples the one nearer to the text embedding (as unCLIP samples)",
    "posterior_mean": "mean of {k} samples of the prior",
    "one_step": "the prior's own estimate at full noise, one network call",  # of a diffusion prior
    "text_embedding": "the caption's text embedding itself",
    "mean_image_embedding": "the mean image embedding of the training split",
    "ridge": "ridge regression from text embedding, fitted on the training split",
    "shuffled_captions": "mean of {k} samples for another sample's caption",
}
BASELINES = ("text_embedding", "mean_image_embedding", "ridge", "shuffled_captions")


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """How many samples stand for the posterior, and how they are drawn."""

    samples: int
    sampling: StageSampling
    seed: int
    batch: int = 256


@dataclass(frozen=True, kw_only=True)
class PriorResult:
    """Figures by name, and the best-of-two embeddings that go on to the decoder."""

    cosines: dict[str, Figure]
    differences: dict[str, Figure]
    ridge_alpha: float
    per_sample: dict[str, np.ndarray]


def evaluate_prior(
    cascade: UnCLIP, test: Batch, train: Batch, validation: Batch, settings: PriorSettings
) -> PriorResult:
    """Cosines of every prediction and of every baseline, and the paired differences between them."""
    prompts = Prompts.of(test)
    draws = sample_embeddings(cascade, prompts, settings)
    posterior = unit(draws.mean(axis=1))
    ridge = fit_ridge(
        train.text_embedding, train.image_embedding, validation.text_embedding, validation.image_embedding
    )
    center = np.broadcast_to(train.image_embedding.mean(axis=0), test.image_embedding.shape)
    predictions = {
        "prior_sample": draws[:, 0],
        "prior_best_of_two": best_of_two(draws, test.text_embedding),
        "posterior_mean": posterior,
        "text_embedding": test.text_embedding,
        "mean_image_embedding": center,
        "ridge": ridge.predict(test.text_embedding),
        "shuffled_captions": posterior[derangement(len(test), settings.seed)],
    }
    if isinstance(cascade.prior, DiffusionPrior) and cascade.prior_diffusion is not None:
        predictions["one_step"] = one_step_mean(cascade.prior, cascade.prior_diffusion, prompts, settings)
    per_sample = {
        name: cosine(predictions[name], test.image_embedding) for name in PREDICTIONS if name in predictions
    }
    cosines = {
        name: mean(values, seed=settings.seed, what=PREDICTIONS[name].format(k=settings.samples))
        for name, values in per_sample.items()
    }
    differences = {
        f"posterior_mean_minus_{name}": paired_difference(
            per_sample["posterior_mean"],
            per_sample[name],
            seed=settings.seed,
            what=f"posterior mean minus {PREDICTIONS[name].format(k=settings.samples)}",
        )
        for name in BASELINES
    }
    return PriorResult(
        cosines=cosines, differences=differences, ridge_alpha=ridge.alpha, per_sample=per_sample
    )


def sample_embeddings(
    cascade: UnCLIP, prompts: Prompts, settings: PriorSettings
) -> Float[np.ndarray, "n k d"]:
    """`settings.samples` image embeddings of unit norm for every caption, without any choice among them."""
    k, rows = settings.samples, []
    step = max(1, settings.batch // k)
    for start in range(0, len(prompts.tokens), step):
        part = prompts.take(slice(start, start + step))
        repeated = part.repeat(k)
        drawn = cascade.sample_prior(
            repeated.tokens,
            repeated.mask,
            repeated.text_embedding,
            seed=settings.seed,
            settings=settings.sampling,
            candidates=1,
            first_index=start * k,
        )
        rows.append(drawn.reshape(len(part.tokens), k, -1).numpy())
    return np.concatenate(rows)


def best_of_two(
    draws: Float[np.ndarray, "n k d"], text_embedding: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, "n d"]:
    """The first two draws' nearer one to the text embedding (2204.06125, section 2.2)."""
    two = draws[:, :2]
    best = np.einsum("nkd,nd->nk", two, text_embedding).argmax(axis=1)
    chosen: np.ndarray = two[np.arange(len(two)), best]
    return chosen


@torch.no_grad()
def one_step_mean(
    prior: DiffusionPrior, diffusion: Diffusion, prompts: Prompts, settings: PriorSettings
) -> Float[np.ndarray, "n d"]:
    """What the network predicts where x_t is pure noise and tells nothing of x_0.

    The minimiser of the mean squared error there is E[x_0 | caption], so this is the posterior mean as the
    network knows it, without the error of a chain.
    """
    text = prompts.text_embedding
    x_t = torch.randn(text.shape, generator=torch.Generator().manual_seed(settings.seed))
    t = torch.full((len(text),), diffusion.num_steps - 1)
    output = prior(x_t, diffusion.original_timesteps(t), prompts.tokens, prompts.mask, text)
    estimate: np.ndarray = diffusion.predict(output, x_t, t, clip_x0=False).x0.numpy()
    return unit(estimate)
