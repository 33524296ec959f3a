"""What an evaluation is told."""

from __future__ import annotations

from pydantic import Field

from models.sampling import CascadeSampling
from pipelines.step import StepConfig, input_of

PROMPTS = (
    "red heart",
    "yellow star",
    "cat face",
    "green apple",
    "house",
    "blue fish",
    "tree",
    "smiling face",
)
UPSAMPLERS = ("upsampler_256", "upsampler_1024")
"""Inputs of an evaluation, in the order of the cascade."""


class EvaluateConfig(StepConfig):
    """Sizes, sampling and prompts of an evaluation; every part of the cascade is an input.

    The default sizes take about 70 s on two cores with the demo's networks.
    """

    corpus: str = input_of("corpus")
    embeddings: str = input_of("embeddings", "annotation")
    verdict: str = input_of("verdict")
    clip_heads: str | None = input_of("clip_heads", optional=True)
    prior: str = input_of("prior")
    decoder: str = input_of("decoder")
    upsampler_256: str | None = input_of("upsampler", optional=True)
    upsampler_1024: str | None = input_of("upsampler", optional=True)

    encoder: str = "lit"
    """As the annotation's; its heads are the input `clip_heads`."""
    sampling: CascadeSampling = CascadeSampling()
    """Also what the registered model samples with."""
    prompts: tuple[str, ...] = PROMPTS
    """Fixed prompts of the grid."""
    seed: int = Field(default=0, ge=0)
    test_samples: int = Field(default=1000, ge=8)
    """At most so many held-out samples for the prior."""
    train_samples: int = Field(default=20_000, ge=8)
    """At most so many training samples for ridge regression, means and nearest neighbours."""
    posterior_samples: int = Field(default=4, ge=2)
    """Samples of the prior whose mean stands for its posterior mean."""
    loss_samples: int = Field(default=96, ge=8)
    loss_draws: int = Field(default=2, ge=1)
    """Noisings of each held-out sample."""
    generated: int = Field(default=48, ge=8)
    """Held-out captions for which an image is generated."""
    reference: int = Field(default=96, ge=8)
    """Real images on either side of a distance."""
    upsampled: int = Field(default=16, ge=4)
    """Held-out images that each upsampler enlarges."""
    samples_per_prompt: int = Field(default=2, ge=1)
    neighbours: int = Field(default=3, ge=1)
    batch: int = Field(default=16, ge=1)
    threads: int = Field(default=2, ge=1)
    """CPU threads of the networks.  Not a resource: another number sums in another order."""
    attribution: str = ""
    """Printed on every picture that shows images of the corpus."""
