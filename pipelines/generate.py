"""From prompts to pictures with a model folder: `unclip generate "a red heart" -n 4 --out out/`.

The picture of (prompt, seed, index) is the same whatever else is asked for in the same call: other prompts, a
larger `n`, another batch size (up to the last bits, in which kernels differ by batch size).
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from infra.progress import Progress
from models.config import UnCLIPConfig
from models.sampling import CascadeSampling, check_cascade

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.cascade_io import LoadedCascade
    from pipelines.encoders.base import Encoder

Picture = UInt8[np.ndarray, "h w 3"]


class GenerateError(ValueError):
    """A prompt or a setting that the model does not take."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A loaded model with its text encoder."""

    cascade: LoadedCascade
    encoder: Encoder
    sampling: CascadeSampling

    @staticmethod
    def load(
        model_dir: Path,
        *,
        guidance: float | None = None,
        steps: int | None = None,
        tile: int | None = None,
        threads: int | None = None,
    ) -> Sampler:
        """Read a model folder and the encoder it was trained with.

        guidance: of the decoder, instead of the model's own.  steps: of prior and decoder, likewise; a prior
        whose analytic variance was not estimated for them samples with the process's own.  tile: side in
        pixels of the tiles that upsamplers run over.
        Raises `CascadeError` where the folder is no model or the installed encoder is another one,
        `GenerateError` for settings that cannot be sampled with.
        """
        import torch

        from pipelines.cascade_io import CascadeError, read_cascade
        from pipelines.encoders.registry import load_encoder

        cascade = read_cascade(model_dir)
        threads = threads or torch.get_num_threads()
        encoder = load_encoder(
            cascade.encoder,
            heads=cascade.heads,
            folder=model_dir,
            threads=threads,
            precision=cascade.encoder_identity.get("precision", "fp32"),
        )
        if encoder.identity != dict(cascade.encoder_identity):
            different = sorted(
                key
                for key in {*encoder.identity, *cascade.encoder_identity}
                if encoder.identity.get(key) != cascade.encoder_identity.get(key)
            )
            raise CascadeError(
                f"{model_dir} was trained on embeddings of another encoder {cascade.encoder!r} than the one "
                f"installed: {', '.join(different)} differ"
            )
        try:
            sampling = _override(cascade, guidance=guidance, steps=steps, tile=tile)
            check_cascade(sampling, cascade.model.config)
            _check_tile(cascade.model.config, tile)
        except ValueError as error:
            raise GenerateError(str(error)) from error
        return Sampler(cascade=cascade, encoder=encoder, sampling=sampling)

    def check(self, prompt: str) -> None:
        """Raises `GenerateError` on an empty prompt, or one longer than the model's context."""
        if not prompt.strip():
            raise GenerateError("the prompt is empty; describe the picture")
        try:
            self.text(prompt)
        except ValueError as error:
            raise GenerateError(str(error)) from error

    def sample(self, prompt: str, *, count: int, seed: int, first: int = 0) -> list[list[Picture]]:
        """Pictures `first` to `first + count` of the prompt: each a list by stage, the last the largest.

        Raises `GenerateError` as `check` does.
        """
        import torch

        from pipelines.pictures import to_u8

        self.check(prompt)
        tokens, mask = self.text(prompt)
        text = torch.from_numpy(self.encoder.encode_texts([prompt]))
        generated = self.cascade.model.generate(
            tokens, mask, text, seed=seed, samples=count, sampling=self.sampling, first_index=first
        )
        stages = [to_u8(images.numpy()) for images in generated.images_m11]
        return [[stage[i] for stage in stages] for i in range(count)]

    def text(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Token ids, or the features of the encoder that the networks see, and their mask.  Raises
        `ValueError` on a prompt longer than the model's context."""
        from pipelines.encoders.clip_text import ClipText
        from pipelines.train.tokens import tokenize_prompts

        if isinstance(self.encoder, ClipText):
            return self.encoder.features([prompt])
        return tokenize_prompts([prompt], self.cascade.context, self.cascade.vocab_size)

    def png(self, picture: Picture, prompt: str, seed: int, index: int) -> bytes:
        """PNG bytes that say what made them: prompt, seed, index and model digest as text chunks."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        facts = {"prompt": prompt, "seed": seed, "index": index, "model": self.cascade.digest}
        for name, value in facts.items():
            text.add_text(f"unclip:{name}", str(value))
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG", pnginfo=text)
        return buffer.getvalue()


def generate(
    model_dir: Path,
    prompts: Sequence[str],
    *,
    n: int = 1,
    seed: int = 0,
    out_dir: Path,
    guidance: float | None = None,
    steps: int | None = None,
    tile: int | None = None,
    batch: int = 8,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `n` pictures of each prompt to `out_dir`, and `grid.png` of all; returns the paths, grid last.

    Raises `GenerateError` for a prompt that is empty or too long, `CascadeError` for a folder that is no
    model.
    """
    from PIL import Image

    if n < 1 or not prompts:
        raise GenerateError(f"nothing to generate: {len(prompts)} prompts, {n} pictures of each")
    sampler = Sampler.load(model_dir, guidance=guidance, steps=steps, tile=tile)
    for prompt in prompts:
        sampler.check(prompt)
    progress = progress or Progress("generate", quiet=True)
    progress.start(n * len(prompts), unit="images")
    out_dir.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    rows: list[list[Picture]] = []
    for number, prompt in enumerate(prompts):
        rows.append([])
        for first in range(0, n, batch):
            count = min(batch, n - first)
            for i, stages in enumerate(sampler.sample(prompt, count=count, seed=seed, first=first)):
                path = out_dir / _file_name(prompts, number, seed, first + i)
                path.write_bytes(sampler.png(stages[-1], prompt, seed, first + i))
                paths.append(path)
                rows[-1].append(stages[-1])
            progress.advance(count)
    progress.close()
    grid = out_dir / "grid.png"
    Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows])).save(grid, "PNG")
    return [*paths, grid]


def write_pictures(
    sampler: Sampler, pictures: Sequence[Picture], out_dir: Path, label: str, *, seed: int
) -> list[Path]:
    """Write pictures that belong together, named and tagged by `label`, and `grid.png`; returns the paths."""
    from PIL import Image

    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, picture in enumerate(pictures):
        paths.append(out_dir / _file_name([label], 0, seed, index))
        paths[-1].write_bytes(sampler.png(picture, label, seed, index))
    grid = out_dir / "grid.png"
    Image.fromarray(np.concatenate(list(pictures), axis=1)).save(grid, "PNG")
    return [*paths, grid]


def _override(
    cascade: LoadedCascade, *, guidance: float | None, steps: int | None, tile: int | None
) -> CascadeSampling:
    sampling = cascade.sampling
    prior, decoder = sampling.prior, sampling.decoder
    if guidance is not None:
        decoder = dataclasses.replace(decoder, guidance=guidance)
    if steps is not None:
        estimated = str(steps) in cascade.model.config.prior_noise_powers
        prior = dataclasses.replace(prior, steps=steps, variance=prior.variance if estimated else "model")
        decoder = dataclasses.replace(decoder, steps=steps)
    upsamplers = sampling.upsamplers
    if tile is not None:
        upsamplers = tuple(dataclasses.replace(stage, tile=tile) for stage in upsamplers)
    return dataclasses.replace(sampling, prior=prior, decoder=decoder, upsamplers=upsamplers)


def _check_tile(config: UnCLIPConfig, tile: int | None) -> None:
    """Raises `ValueError` on tiles that an upsampler cannot run over: before the first hour, not after."""
    from models.tiling import check_tile

    if tile is None:
        return
    for upsampler in config.upsamplers:
        check_tile(tile, upsampler.unet.stride)


def _file_name(prompts: Sequence[str], number: int, seed: int, index: int) -> str:
    """`a-red-heart-s0-0000.png`; prompts that read alike are told apart by their number."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48] or "prompt" for prompt in prompts]
    prefix = f"{number}-" if slugs.count(slugs[number]) > 1 else ""
    return f"{prefix}{slugs[number]}-s{seed}-{index:04d}.png"
