"""The steps that train a prior: by diffusion, or autoregressively.  Either artifact is of kind `prior`.

What each has beside the weights that every training leaves (`pipelines/train/steps.py`):

- diffusion: `noise_powers.safetensors`, from which analytic variances follow, one tensor a respacing
- autoregressive: the codec's tensors among the weights, fitted to the training embeddings
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.step import Context
from pipelines.train.config import TrainARPriorConfig, TrainPriorConfig, TrainResources
from pipelines.train.precision import Numerics
from pipelines.train.steps import TrainStep

if TYPE_CHECKING:
    from torch import Tensor

    from models.diffusion.samplers import Denoiser
    from pipelines.train.job import TrainedConfig
    from pipelines.train.objectives import StageObjective
    from pipelines.train.stream import Batch

FIT_BATCH = 4096
ESTIMATE_BATCH = 64


class TrainPrior(TrainStep[TrainPriorConfig]):
    """Caption and text embedding to image embedding, by diffusion."""

    kind = "train_prior"
    produces = "prior"
    version = 3
    Config = TrainPriorConfig

    def network(self, config: TrainPriorConfig) -> TrainedConfig:
        return config.network

    def objective(self, config: TrainPriorConfig) -> StageObjective:
        from pipelines.train.objectives import PriorObjective

        return PriorObjective(
            diffusion=config.diffusion,
            embedding_dim=config.network.embedding_dim,
            drop_text=config.drop_text,
        )

    def text(self, config: TrainPriorConfig) -> tuple[int, int]:
        assert config.network.vocab_size is not None  # validated
        return config.network.context, config.network.vocab_size

    def embedding_dim(self, config: TrainPriorConfig) -> int:
        return config.network.embedding_dim

    def check(self, config: TrainPriorConfig) -> list[str]:
        from models.diffusion.schedule import spaced_steps

        problems = super().check(config)
        for steps in config.analytic_steps:
            try:
                spaced_steps(config.diffusion.steps, steps)
            except ValueError as error:
                problems.append(f"{self.kind}: analytic_steps: {error}")
        return problems

    def extras(
        self,
        context: Context[TrainPriorConfig, TrainResources],
        weights: Mapping[str, Tensor],
        numerics: Numerics,
    ) -> dict[str, Mapping[str, Tensor]]:
        """Noise powers of the averaged weights on training samples, in fp32 and without guidance."""
        import torch

        from models.diffusion.analytic import noise_power
        from pipelines.cascade_io import NOISE_POWERS

        config = context.config
        if not config.analytic_steps:
            return {}
        # Another number of threads sums in another order.
        torch.set_num_threads(config.threads)
        prior = config.network.build()
        prior.load_state_dict(dict(weights))
        prior.eval().to(numerics.device)

        def batches() -> Iterator[tuple[Tensor, Denoiser]]:
            for batch in _training_batches(context, config.analytic_samples, ESTIMATE_BATCH):
                arrays = (batch.image_embedding, batch.tokens, batch.mask, batch.text_embedding)
                z, text, mask, embedding = (torch.from_numpy(a).to(numerics.device) for a in arrays)
                denoise = partial(prior.denoise, **prior.condition(text, mask, embedding))
                yield z * prior.scale, denoise

        process = config.diffusion.build()
        powers = {
            str(steps): noise_power(process.spaced(steps), batches(), seed=config.seed)
            for steps in config.analytic_steps
        }
        return {NOISE_POWERS: powers}


class TrainARPrior(TrainStep[TrainARPriorConfig]):
    """Caption and text embedding to image embedding, token by token."""

    kind = "train_ar_prior"
    produces = "prior"
    version = 1
    Config = TrainARPriorConfig

    def network(self, config: TrainARPriorConfig) -> TrainedConfig:
        return config.network

    def objective(self, config: TrainARPriorConfig) -> StageObjective:
        from pipelines.train.objectives import ARPriorObjective

        return ARPriorObjective(drop_text=config.drop_text)

    def text(self, config: TrainARPriorConfig) -> tuple[int, int]:
        return config.network.text_context, config.network.vocab_size

    def embedding_dim(self, config: TrainARPriorConfig) -> int:
        return config.network.embedding_dim

    def fit_buffers(self, context: Context[TrainARPriorConfig, TrainResources]) -> Mapping[str, Tensor]:
        """The codec of the training embeddings.

        Raises `ValueError` where the components hold less of the variance than the recipe asks for.
        """
        import torch

        from models.embedding_codec import EmbeddingCodec
        from models.pca import Pca

        config, network = context.config, context.config.network
        torch.set_num_threads(config.threads)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in _training_batches(context, config.codec_samples, FIT_BATCH):
                yield torch.from_numpy(batch.image_embedding), torch.from_numpy(batch.text_embedding)

        pca = Pca.fit(image for image, _ in batches())
        held = float(pca.explained()[network.components - 1])
        # All components hold the whole but for the last digits, as `components_for` counts them.
        if held < config.least_variance - 1e-6:
            raise ValueError(
                f"network.components: {network.components} hold {100 * held:.2f} % of the variance of the "
                f"training embeddings, least_variance is {config.least_variance}; give "
                f"{pca.components_for(config.least_variance)} components, or lower least_variance"
            )
        context.progress.say(
            f"{context.progress.name}: {network.components} of {network.embedding_dim} components hold "
            f"{100 * held:.2f} % of the embeddings' variance"
        )
        codec = EmbeddingCodec.fit(pca.first(network.components), batches(), buckets=network.buckets)
        return {f"codec.{name}": tensor for name, tensor in codec.named_buffers()}


def _training_batches(context: Context[Any, TrainResources], at_most: int, size: int) -> Iterator[Batch]:
    """At most so many training samples, a random subset by the seed, in batches."""
    from pipelines.train.stream import Stream

    stream = Stream(context.draft.work / "index.arrow", split="train", seed=context.config.seed)
    count = min(at_most, len(stream))
    for start in range(0, count, size):
        yield stream.read(start, min(start + size, count))
