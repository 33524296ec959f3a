"""The training steps: corpus, embeddings and verdict in, one trained network out.

An artifact of kind `prior`, `decoder` or `upsampler` holds::

    config.json            network, diffusion, objective, tokenizer, encoder identity, numerics
    model.safetensors      weights after the last update
    ema.safetensors        their moving average: what evaluation and generation use
    training.json          metrics by step, and how many samples were used

The priors' own steps, and what they write besides, are in `pipelines/train/prior_steps.py`.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from infra.machine import available_memory_bytes
from infra.store import Artifact, Draft, Rows, commit_file
from models.config import DiffusionConfig, tagged
from models.config_text import TextTransformerConfig
from pipelines.aligned import encoder_identity
from pipelines.step import Context, Estimate, Step
from pipelines.train.config import (
    TrainConfig,
    TrainDecoderConfig,
    TrainDiffusionConfig,
    TrainResources,
    TrainUpsamplerConfig,
)
from pipelines.train.precision import Numerics, choose_numerics

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pipelines.train.checkpoint import State
    from pipelines.train.cost import Cost
    from pipelines.train.index import IndexCounts
    from pipelines.train.job import TrainedConfig, TrainJob
    from pipelines.train.objectives import StageObjective
    from pipelines.train.stream import View

RANK_OVERHEAD_BYTES = 700 * 2**20
"""Private memory of a rank before it holds a weight: Python, torch, Ray, DeepSpeed (measured)."""

BYTES_PER_PARAMETER = 28
"""Of a rank, at worst: weights, gradients, their flat copies and two moments in fp32, average, checkpoint."""

ConfigT = TypeVar("ConfigT", bound=TrainConfig)


class TrainStep(Step[ConfigT, TrainResources]):
    """What the training steps share."""

    version = 2
    Resources = TrainResources

    @abstractmethod
    def objective(self, config: ConfigT) -> StageObjective:
        """What the network is trained on."""

    @abstractmethod
    def network(self, config: ConfigT) -> TrainedConfig:
        """The network's configuration."""

    def view(self, config: ConfigT) -> View | None:  # noqa: ARG002
        """What the stage sees of an image; None: nothing."""
        return None

    def text(self, config: ConfigT) -> tuple[int, int] | None:  # noqa: ARG002
        """(context, vocabulary) of its tokens; None: no text."""
        return None

    def embedding_dim(self, config: ConfigT) -> int | None:  # noqa: ARG002
        """Width of the embeddings it reads; None: none."""
        return None

    def diffusion(self, config: ConfigT) -> DiffusionConfig | None:
        """The process it is trained with; None: it is not trained by diffusion."""
        return config.diffusion if isinstance(config, TrainDiffusionConfig) else None

    def fit_buffers(self, context: Context[ConfigT, TrainResources]) -> Mapping[str, Tensor]:  # noqa: ARG002
        """What of the network is fitted to the training split before training begins, by name.

        Called when the index is written."""
        return {}

    def extras(
        self,
        context: Context[ConfigT, TrainResources],  # noqa: ARG002
        weights: Mapping[str, Tensor],  # noqa: ARG002
        numerics: Numerics,  # noqa: ARG002
    ) -> dict[str, Mapping[str, Tensor]]:
        """Files of tensors beside the weights, made after training with the averaged `weights`."""
        return {}

    def identity(self, config: ConfigT) -> dict[str, Any]:
        numerics = choose_numerics(config.device, config.precision)
        return {"device": numerics.device, "precision": numerics.precision}

    def check(self, config: ConfigT) -> list[str]:
        problems = []
        here = not os.environ.get("RAY_ADDRESS")
        cpus = os.cpu_count() or 1
        if here and config.ranks * config.threads > cpus:
            problems.append(
                f"{self.kind}: {config.ranks} ranks of {config.threads} threads need "
                f"{config.ranks * config.threads} CPUs, this machine has {cpus}; lower ranks or threads, or "
                f"set RAY_ADDRESS to a cluster"
            )
        needed = config.ranks * (RANK_OVERHEAD_BYTES + BYTES_PER_PARAMETER * self.cost(config).parameters)
        if here and needed > available_memory_bytes():
            problems.append(
                f"{self.kind}: {config.ranks} ranks need about {needed / 2**30:.1f} GiB, "
                f"{available_memory_bytes() / 2**30:.1f} GiB are free"
            )
        return problems

    def check_inputs(self, config: ConfigT, inputs: Mapping[str, Artifact]) -> list[str]:
        from pipelines.train.initial import initial_problems

        if "initial" not in inputs or "embeddings" not in inputs:
            return []
        encoder = encoder_identity(inputs["embeddings"])
        found = initial_problems(
            self.network(config), self.diffusion(config), encoder, inputs["initial"].path
        )
        return [f"{self.kind}: {problem}" for problem in found]

    def estimate(self, config: ConfigT, inputs: Mapping[str, Estimate]) -> Estimate:
        cost = self.cost(config)
        return Estimate(
            rows=max((e.rows for e in inputs.values()), default=0),
            # Two checkpoints of four tensors a parameter beside the two of the artifact.
            disk_bytes=10 * 4 * cost.parameters,
            seconds=cost.seconds(
                config.steps * config.batch,
                choose_numerics(config.device, config.precision),
                ranks=config.ranks,
                threads=config.threads,
            ),
        )

    def cost(self, config: ConfigT) -> Cost:
        """Parameters and operations of the network, counted without memory."""
        from pipelines.train.cost import cost_of

        view = self.view(config)
        return cost_of(self.network(config), view.crop if view is not None else None)

    def run(self, context: Context[ConfigT, TrainResources]) -> dict[str, Any]:
        from pipelines.train.checkpoint import Checkpoints, load
        from pipelines.train.launch import fit

        config = context.config
        self._check_embeddings(context)
        numerics = choose_numerics(config.device, config.precision)
        counts = self.index(context)
        job = self.job(context)
        context.progress.say(
            f"{context.progress.name}: {numerics.precision} on {numerics.device} ({numerics.reason}), "
            f"{config.ranks} ranks, {_engine_name(config)}; {counts.used['train']} training samples"
            + (f", {counts.too_small['train']} too small" if counts.too_small["train"] else "")
        )
        context.journal.params({"numerics.device": numerics.device, "numerics.precision": numerics.precision})
        fit(
            job,
            device=numerics.device,
            cpus_per_rank=context.resources.cpus_per_rank,
            max_lost=context.resources.max_lost,
            progress=context.progress,
        )
        newest = Checkpoints(job.work).newest_valid()
        assert newest is not None  # `fit` returned
        state = load(newest)
        self._write(context, job, state, numerics, counts)
        context.fixed_rows.append(_rows(counts, self.view(config)))
        return _summary(state, counts)

    def _check_embeddings(self, context: Context[ConfigT, TrainResources]) -> None:
        from pipelines.aligned import read_embeddings, shard_names

        expected = self.embedding_dim(context.config)
        embeddings = context.inputs["embeddings"]
        got = read_embeddings(embeddings, "img", shard_names(embeddings)[0]).shape[1]
        if expected is not None and got != expected:
            raise ValueError(
                f"{self.kind}: network.embedding_dim is {expected}, but {embeddings.path} holds embeddings "
                f"of {got} dimensions (encoder {encoder_identity(embeddings).get('name')!r})"
            )

    def index(self, context: Context[ConfigT, TrainResources]) -> IndexCounts:
        """Write the stream's index into the step's scratch folder."""
        from pipelines.train.index import build_index

        view, text = self.view(context.config), self.text(context.config)
        return build_index(
            context.draft.work / "index.arrow",
            context.inputs["corpus"],
            context.inputs["embeddings"],
            context.inputs["verdict"],
            context=text[0] if text else None,
            vocab_size=text[1] if text else None,
            # Only crops need sharp pixels; a whole small image may as well be enlarged to 64 px.
            min_side=view.side if view is not None and view.crop is not None else 0,
        )

    def job(self, context: Context[ConfigT, TrainResources]) -> TrainJob:
        """What the ranks are told."""
        from pipelines.train.job import TrainJob

        config, resources = context.config, context.resources
        numerics = choose_numerics(config.device, config.precision)
        return TrainJob(
            network=self.network(config),
            objective=self.objective(config),
            index=context.draft.work.absolute() / "index.arrow",
            view=self.view(config),
            optimiser=config.optimiser,
            steps=config.steps,
            batch=config.batch,
            seed=config.seed,
            work=context.draft.work.absolute(),
            initial=context.inputs["initial"].path.absolute() if "initial" in context.inputs else None,
            journal=context.journal.path.absolute(),
            micro_batch=config.micro_batch,
            ema_decay=config.ema_decay,
            ranks=config.ranks,
            zero_stage=config.zero_stage,
            precision=numerics.precision,
            threads=config.threads,
            log_every=config.log_every,
            validate_every=config.validate_every,
            validation_samples=config.validation_samples,
            checkpoint_every=resources.checkpoint_every,
            prefetch=resources.prefetch,
            cache_bytes=resources.cache_mb * 2**20,
            tracking_id=context.draft.address,
            buffers=self._buffers_file(context),
            loss_aware_steps=_loss_aware_steps(config),
        )

    def _buffers_file(self, context: Context[ConfigT, TrainResources]) -> Path | None:
        """Where the network's buffers lie, fitted once however often the training is taken up again."""
        import torch

        path = context.draft.work.absolute() / "buffers.pt"
        if not path.is_file():
            buffers = self.fit_buffers(context)
            if not buffers:
                return None
            temporary = path.with_suffix(".tmp")
            torch.save(dict(buffers), temporary)
            commit_file(temporary, path)
        return path

    def _write(
        self,
        context: Context[ConfigT, TrainResources],
        job: TrainJob,
        state: State,
        numerics: Numerics,
        counts: IndexCounts,
    ) -> None:
        config, text = context.config, self.text(context.config)
        diffusion, buffers = self.diffusion(config), _load_buffers(job)
        described = {
            "network": tagged(self.network(config)),
            "diffusion": diffusion.to_dict() if diffusion is not None else None,
            "objective": {k: v for k, v in asdict(self.objective(config)).items() if k != "diffusion"},
            "tokenizer": {"name": "clip-bpe", "context": text[0], "vocab_size": text[1]} if text else None,
            "encoder": encoder_identity(context.inputs["embeddings"]),
            "numerics": {"device": numerics.device, "precision": numerics.precision},
        }
        _write_json(context.draft, "config.json", described)
        training = {"steps": state.cursor.step, "samples": asdict(counts), "history": state.history}
        _write_json(context.draft, "training.json", training)
        averaged = {**state.ema, **buffers}
        files = {
            "model.safetensors": {**state.weights, **buffers},
            "ema.safetensors": averaged,
            **self.extras(context, averaged, numerics),
        }
        for name, tensors in files.items():
            _write_weights(context.draft, name, tensors)


class TrainDecoder(TrainStep[TrainDecoderConfig]):
    """Image embedding and caption to a small image."""

    kind = "train_decoder"
    produces = "decoder"
    Config = TrainDecoderConfig

    def network(self, config: TrainDecoderConfig) -> TrainedConfig:
        return config.network

    def objective(self, config: TrainDecoderConfig) -> StageObjective:
        from pipelines.train.objectives import DecoderObjective

        return DecoderObjective(
            diffusion=config.diffusion,
            image=config.network.embedding_dim is not None,
            drop_image=config.drop_image,
            drop_text=config.drop_text,
            inpainting=config.network.inpainting,
        )

    def view(self, config: TrainDecoderConfig) -> View:
        from pipelines.train.stream import View

        return View(side=config.network.image_size)

    def text(self, config: TrainDecoderConfig) -> tuple[int, int]:
        assert config.network.vocab_size is not None  # validated
        return config.network.text_context, config.network.vocab_size

    def embedding_dim(self, config: TrainDecoderConfig) -> int | None:
        return config.network.embedding_dim


class TrainUpsampler(TrainStep[TrainUpsamplerConfig]):
    """Degraded small image to a larger one, trained on crops."""

    kind = "train_upsampler"
    produces = "upsampler"
    Config = TrainUpsamplerConfig

    def network(self, config: TrainUpsamplerConfig) -> TrainedConfig:
        return config.network

    def objective(self, config: TrainUpsamplerConfig) -> StageObjective:
        from pipelines.train.objectives import UpsamplerObjective

        return UpsamplerObjective(
            diffusion=config.diffusion,
            scale=config.network.scale,
            degradation=config.degradation,
            noise_conditioning=config.network.noise_conditioning,
            text=config.network.text is not None,
            drop_text=config.drop_text,
            inpainting=config.network.inpainting,
        )

    def view(self, config: TrainUpsamplerConfig) -> View:
        from pipelines.train.stream import View

        return View(side=config.network.image_size, crop=config.crop)

    def text(self, config: TrainUpsamplerConfig) -> tuple[int, int] | None:
        text = config.network.text
        # Features are refused by the configuration.
        return (text.context, text.vocab_size) if isinstance(text, TextTransformerConfig) else None


def _load_buffers(job: TrainJob) -> dict[str, Tensor]:
    import torch

    return {} if job.buffers is None else torch.load(job.buffers, weights_only=True)


def _loss_aware_steps(config: TrainConfig) -> int | None:
    if isinstance(config, TrainDiffusionConfig) and config.timesteps == "loss_aware":
        return config.diffusion.steps
    return None


def _engine_name(config: TrainConfig) -> str:
    return "plain torch" if config.zero_stage is None else f"DeepSpeed ZeRO-{config.zero_stage}"


def _rows(counts: IndexCounts, view: View | None) -> Rows:
    """Every kept sample of the verdict: trained on, held out, or too small."""
    reasons = {f"held out: {split}": n for split, n in counts.used.items() if split != "train" and n}
    if small := sum(counts.too_small.values()):
        assert view is not None
        reasons[f"smaller than {view.side} px"] = small
    dropped = sum(reasons.values())
    return Rows(
        total=counts.used["train"] + dropped, kept=counts.used["train"], dropped=dropped, reasons=reasons
    )


def _summary(state: State, counts: IndexCounts) -> dict[str, Any]:
    losses = [entry for entry in state.history if "loss" in entry]
    checks = [entry for entry in state.history if "validation_loss" in entry]
    summary: dict[str, Any] = {
        "steps": state.cursor.step,
        "samples_seen": state.cursor.step * state.cursor.batch,
        "epochs": state.cursor.step * state.cursor.batch / counts.used["train"],
        "training_samples": counts.used["train"],
        "too_small_samples": sum(counts.too_small.values()),
        "truncated_captions": counts.truncated_captions,
        "parameters": sum(tensor.numel() for tensor in state.weights.values()),
        "loss": losses[-1]["loss"],
    }
    if checks:
        summary |= {
            "validation_loss_untrained": checks[0]["validation_loss"],
            "validation_loss": checks[-1]["validation_loss"],
            "validation_loss_se": checks[-1]["validation_loss_se"],
        }
    return summary


def _write_json(draft: Draft, name: str, value: Any) -> None:
    draft.write_bytes(name, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def _write_weights(draft: Draft, name: str, tensors: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    draft.write_bytes(name, save({key: tensor.contiguous() for key, tensor in sorted(tensors.items())}))
