"""Everything an evaluation has open: the cascade, the held-out samples, the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from infra.store import Artifact
from models.cascade import UnCLIP
from models.sampling import check_cascade
from pipelines.aligned import encoder_identity
from pipelines.cascade_io import CascadeError, Stage, compose, context_of, open_stage, vocab_size_of
from pipelines.evaluate.config import UPSAMPLERS, EvaluateConfig
from pipelines.evaluate.generated import Eyes
from pipelines.evaluate.held_out import Prompts, Source
from pipelines.evaluate.statistics import Figure

if TYPE_CHECKING:
    from pathlib import Path

Figures = dict[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Shared by all sections of an evaluation."""

    config: EvaluateConfig
    cascade: UnCLIP
    stages: Mapping[str, Stage]
    """Trained stages by name: prior, decoder, and each upsampler by its output side, in order."""
    crops: Mapping[str, int]
    """Side in pixels of the crops that each upsampler was trained on."""
    source: Source
    eyes: Eyes

    @staticmethod
    def open(config: EvaluateConfig, inputs: Mapping[str, Artifact], work: Path) -> Bench:
        """Load all of it.  Raises `CascadeError` where the parts are not of one cascade and one encoder."""
        torch.set_num_threads(config.threads)
        prior, decoder = open_stage(inputs["prior"].path), open_stage(inputs["decoder"].path)
        upsamplers = [open_stage(inputs[name].path) for name in UPSAMPLERS if name in inputs]
        cascade = compose(prior, decoder, upsamplers)
        check_cascade(config.sampling, cascade.config)
        heads = inputs["clip_heads"].path if "clip_heads" in inputs else None
        # Numerics are part of an encoder's identity: the judge sees as the annotation saw.
        identity = encoder_identity(inputs["embeddings"])
        eyes = Eyes.open(config.encoder, heads, config.threads, identity.get("precision", "fp32"))
        _require_one_encoder(config.encoder, eyes, identity, (prior, decoder))
        stages, crops = {"prior": prior, "decoder": decoder}, {}
        wired = [inputs[name] for name in UPSAMPLERS if name in inputs]
        for upsampler, network, artifact in zip(upsamplers, cascade.config.upsamplers, wired, strict=True):
            name = f"upsampler_{network.image_size}"
            stages[name] = upsampler
            crops[name] = round(network.image_size * artifact.config.get("crop_fraction", 0.25))
        source = Source(
            corpus=inputs["corpus"],
            embeddings=inputs["embeddings"],
            verdict=inputs["verdict"],
            work=work,
            context=context_of(cascade.config),
            vocab_size=vocab_size_of(cascade.config),
            seed=config.seed,
        )
        return Bench(config=config, cascade=cascade, stages=stages, crops=crops, source=source, eyes=eyes)

    @property
    def decoder_side(self) -> int:
        """Side in pixels of the decoder's images."""
        return self.cascade.config.decoder.image_size

    def decode(self, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        """Best-of-two image embeddings (n, d) and the decoder's images in [-1, 1] (n, 3, side, side)."""
        sampling, seed, batch = self.config.sampling, self.config.seed, self.config.batch
        embeddings, images = [], []
        for start in range(0, len(prompts.tokens), batch):
            part = prompts.take(slice(start, start + batch))
            z = self.cascade.sample_prior(
                part.tokens,
                part.mask,
                part.text_embedding,
                seed=seed,
                settings=sampling.prior,
                candidates=sampling.prior_candidates,
                first_index=start,
            )
            embeddings.append(z)
            images.append(
                self.cascade.decode(
                    z, part.tokens, part.mask, seed=seed, settings=sampling.decoder, first_index=start
                )
            )
        return torch.cat(embeddings), torch.cat(images)


def _require_one_encoder(name: str, eyes: Eyes, expected: Mapping[str, Any], stages: Iterable[Stage]) -> None:
    """What judges the images, what the embeddings are of and what the stages were trained on must be one."""
    if eyes.identity != expected:
        raise CascadeError(
            f"the embeddings were made by {expected.get('name')!r}, not by encoder {name!r} with the heads "
            f"given; wire `clip_heads` to the step that `embeddings` was made with"
        )
    for stage in stages:
        if stage.training["encoder"] != expected:
            raise CascadeError(
                f"{stage.weights.parent} was trained on embeddings of another encoder than those given; wire "
                f"`embeddings` to the step it was trained on"
            )
