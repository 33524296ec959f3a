"""Settings of the annotate step."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from filters.choose import declared_specs
from filters.registry import load_scorer
from filters.scorer import Scorer, ScoreSpec
from pipelines.encoders.base import Device, Precision
from pipelines.step import Resources, StepConfig, file_beside_recipe, input_of, package_file


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
    scorer_options: dict[str, dict[str, Any]] = Field(default={})
    """Options of scorers by name: `{caption_language: {languages: [en, de]}}`."""
    scorer_files: dict[str, dict[str, str]] = file_beside_recipe({})
    """Options that are files: `{zero_shot_concepts: {concepts: mine.yaml}}`.  Their content is in the digest
    (each scorer's identity), their place is not."""
    chunk: int = Field(default=32, ge=1, le=256)
    batch: int = Field(default=32, ge=1)
    fallback_batch: int = Field(default=4, ge=1)
    precision: Precision = "fp32"
    device: Device = "cpu"
    threads: int = Field(default=1, ge=1)
    """Threads inside one annotator.  In the digest: how a sum is split can move its last bit."""

    def score_specs(self) -> list[ScoreSpec]:
        """What the scorers declare; those whose scores depend on options are loaded, and raise as
        `load_scorer` does."""
        return [s for name in self.scorers for s in declared_specs(name) or self.load_scorer(name).specs]

    def load_scorer(self, name: str) -> Scorer:
        """A ready scorer with its options.

        Raises ValueError, FileNotFoundError or WeightsError where it, an option or a file is not to be had.
        """
        files = {option: str(package_file(path)) for option, path in self.scorer_files.get(name, {}).items()}
        return load_scorer(name, **self.scorer_options.get(name, {}), **files)


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
