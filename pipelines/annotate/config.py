"""Settings of the annotate step."""

from __future__ import annotations

from pydantic import Field

from pipelines.encoders.base import Device, Precision
from pipelines.step import Resources, StepConfig, input_of


class AnnotateConfig(StepConfig):
    """Which encoder and scorers look at a corpus, and how many samples at once.

    `chunk` samples travel together from a decoding task to an annotator; `batch` are one forward pass on an
    accelerator (on the CPU a pass is one sample), `fallback_batch` after it ran out of memory.
    """

    corpus: str = input_of("corpus")
    encoder: str = "lit"
    scorers: tuple[str, ...] = (
        "explicit_image",
        "toxic_caption",
        "lexicon_caption",
        "image_geometry",
        "caption_geometry",
    )
    chunk: int = Field(default=32, ge=1, le=256)
    batch: int = Field(default=32, ge=1)
    fallback_batch: int = Field(default=4, ge=1)
    precision: Precision = "fp32"
    device: Device = "cpu"
    threads: int = Field(default=1, ge=1)
    """Threads inside one annotator.  In the digest: how a sum is split can move its last bit."""


class AnnotateResources(Resources):
    """How many annotators, and what each kind of worker claims of the cluster.

    `actors`: None takes one per GPU, or per CPU where annotators run on CPUs.  The claims leave room for
    decoding beside the annotators: CPUs that annotators hold whole would starve the tasks that feed them.
    """

    actors: int | None = Field(default=None, ge=1)
    cpus_per_actor: float = Field(default=0.5, gt=0)
    gpus_per_actor: float = Field(default=0.0, ge=0)
    cpus_per_decoder: float = Field(default=0.5, gt=0)
    prefetch: int = Field(default=1, ge=0)
    """Chunks decoded ahead for each annotator; with the chunk's size this bounds memory."""
