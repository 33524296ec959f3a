"""The sections of an evaluation: each takes the bench and returns figures, some of them pictures too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.ar_prior import AutoregressivePrior
from models.config import UpsamplerConfig
from pipelines.evaluate.bench import Bench, Figures
from pipelines.evaluate.code_length import evaluate_code_length
from pipelines.evaluate.generated import (
    blurred,
    caption_scores,
    distances,
    nearest,
    noised,
    recalls,
)
from pipelines.evaluate.held_out import Prompts, pictures
from pipelines.evaluate.losses import evaluate_losses, upsampler_objective
from pipelines.evaluate.prior import PriorSettings, evaluate_prior
from pipelines.evaluate.statistics import mean
from pipelines.evaluate.upsampling import evaluate_upsampler
from pipelines.pictures import Cell, Row, draw_sheet, to_u8
from pipelines.train.draws import Draws, Purpose
from pipelines.train.stream import Batch
from pipelines.train.tokens import tokenize_prompts

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN_UPSAMPLED = 6
CELL_PX = 128


@dataclass(frozen=True, kw_only=True)
class Section:
    """Figures by name, pictures by file name."""

    figures: Figures
    sheets: dict[str, Image] = field(default_factory=dict)


def prior_section(bench: Bench) -> Section:
    """Cosines to the true embedding, and the denoising loss; of an autoregressive prior the code length."""
    config = bench.config
    test, train, validation = (
        bench.source.read(split, count)
        for split, count in (
            ("test", config.test_samples),
            ("train", config.train_samples),
            ("validation", config.test_samples),
        )
    )
    settings = PriorSettings(
        samples=config.posterior_samples, sampling=config.sampling.prior, seed=config.seed
    )
    result = evaluate_prior(bench.cascade, test, train, validation, settings)
    cosines = {f"cosine_{name}": figure for name, figure in result.cosines.items()}
    differences = {f"cosine_{name}": figure for name, figure in result.differences.items()}
    # A prior costs little: every held-out sample counts.
    prior = bench.cascade.prior
    fit = (
        evaluate_code_length(prior, test, train, seed=config.seed, batch=config.batch)
        if isinstance(prior, AutoregressivePrior)
        else _losses(bench, "prior", test, train)
    )
    return Section(figures={**cosines, **differences, **fit})


def decoder_section(bench: Bench) -> Section:
    """The decoder's denoising loss, given the true image embedding and the caption."""
    side, count = bench.decoder_side, bench.config.loss_samples
    test, train = (bench.source.read(split, count, side=side) for split in ("test", "train"))
    return Section(figures=_losses(bench, "decoder", test, train))


def upsampler_section(bench: Bench, index: int) -> Section:
    """PSNR and SSIM against bicubic at full size, and the denoising loss on crops as in training."""
    config = bench.config
    name, stage = list(bench.stages.items())[2 + index]
    assert isinstance(stage.config, UpsamplerConfig)
    side, scale = stage.config.image_size, stage.config.scale
    test = bench.source.read("test", config.upsampled, side=side, min_side=side)
    objective = upsampler_objective(stage)
    result = evaluate_upsampler(
        bench.cascade,
        index,
        pictures(test),
        lambda images: objective.low_resolution(
            images, Draws(config.seed, Purpose.VALIDATION, np.arange(len(images)))
        ),
        Prompts.of(test),
        sampling=config.sampling.upsamplers[index],
        seed=config.seed,
        # Memory grows with the area: as many pixels at once as the decoder handles.
        batch=max(1, config.batch * bench.decoder_side**2 * scale // side**2),
    )
    crops, train = (
        bench.source.read(split, config.loss_samples, side=side, min_side=side, crop=bench.crops[name])
        for split in ("test", "train")
    )
    losses = _losses(bench, name, crops, train)
    rows = [
        Row(label=test.captions[i], cells=[Cell(image=images[i]) for images in shown])
        for shown in [(result.low_res, result.bicubic, result.ours, pictures(test))]
        for i in range(min(SHOWN_UPSAMPLED, len(test)))
    ]
    sheet = draw_sheet(
        rows,
        [f"input {side // scale} px", "bicubic", "upsampler", f"original {side} px"],
        cell_px=min(side, 192),
        title=f"Held-out images, degraded and enlarged to {side} px",
        attribution=config.attribution,
    )
    return Section(figures={**result.figures, **losses}, sheets={f"{name}.png": sheet})


def cascade_section(bench: Bench) -> Section:
    """Images generated for held-out captions against real ones at the same size."""
    config, side = bench.config, bench.decoder_side
    real_batch = bench.source.read("test", config.reference, side=side)
    train_batch = bench.source.read("train", config.reference, side=side)
    # The captions come from the same permutation, so the real image of caption i is real image i.
    count = min(config.generated, len(real_batch))
    prompts = Prompts.of(real_batch).take(slice(0, count))
    _, images = bench.decode(prompts)
    real_images = pictures(real_batch)
    generated, real, train = (
        bench.eyes.look(list(seen)) for seen in (to_u8(images.numpy()), real_images, pictures(train_batch))
    )
    degraded = {
        "blur": bench.eyes.look(list(blurred(real_images))),
        "noise": bench.eyes.look(list(noised(real_images, config.seed))),
    }
    text, encoder = real_batch.text_embedding[:count], bench.eyes.embedding_name
    figures = distances(generated, real, train, degraded, bench.eyes)
    figures |= caption_scores(
        generated.embedding, real.embedding[:count], text, encoder=encoder, seed=config.seed
    )
    figures |= recalls(generated.embedding, text, name="generated", what="own caption of a generated image")
    figures |= recalls(real.embedding[:count], text, name="real", what="own caption of a real image")
    return Section(figures=figures | _memorisation(bench, generated.embedding, real.embedding))


def grid_section(bench: Bench) -> Section:
    """Samples of the fixed prompts at every size, beside the training images nearest to the first of them."""
    config = bench.config
    prompts = _embed_prompts(bench, config.prompts)
    _, small = bench.decode(prompts.repeat(config.samples_per_prompt))
    first = small[:: config.samples_per_prompt]
    stages = [small, *_enlarge(bench, first, prompts)]
    train = bench.source.read("train", config.train_samples)
    seen = bench.eyes.look(list(to_u8(first.numpy())))
    rows, cosines = nearest(seen.embedding, train.image_embedding, config.neighbours)
    neighbours = bench.source.pictures_at("train", set(rows.flat), side=CELL_PX)
    sheet_rows = []
    for i, prompt in enumerate(config.prompts):
        cells = [
            Cell(image=image, note=f"{image.shape[0]} px")
            for k, images in enumerate(stages)
            for image in _of_prompt(to_u8(images.numpy()), i, config.samples_per_prompt if k == 0 else 1)
        ]
        cells += [
            Cell(image=neighbours[row], note=f"{cosine:.2f} {train.captions[row]}")
            for row, cosine in zip(rows[i].tolist(), cosines[i].tolist(), strict=True)
        ]
        sheet_rows.append(Row(label=prompt, cells=cells))
    headers = [f"sample {i + 1}" for i in range(config.samples_per_prompt)]
    headers += [f"{name.replace('_', ' ')}" for name in list(bench.stages)[2:]]
    headers += [f"nearest training {i + 1}" for i in range(config.neighbours)]
    sheet = draw_sheet(
        sheet_rows,
        headers,
        cell_px=CELL_PX,
        title=f"Samples of fixed prompts (seed {config.seed}) beside the nearest training images "
        f"by {bench.eyes.embedding_name} cosine, of {len(train)}",
        attribution=config.attribution,
    )
    return Section(figures={}, sheets={"grid.png": sheet})


def _losses(bench: Bench, name: str, test: Batch, train: Batch) -> Figures:
    config = bench.config
    names = list(bench.stages)
    network = (
        getattr(bench.cascade, name)
        if name in ("prior", "decoder")
        else bench.cascade.upsamplers[names.index(name) - 2]
    )
    return evaluate_losses(
        bench.stages[name],
        network,
        test,
        train,
        draws=config.loss_draws,
        seed=config.seed,
        batch=config.batch,
    )


def _memorisation(bench: Bench, generated: np.ndarray, real: np.ndarray) -> Figures:
    """Cosine to the nearest training image: of generated images, and of real ones never trained on."""
    train = bench.source.read("train", bench.config.train_samples)
    figures = {}
    for name, what in (("generated", generated), ("real", real)):
        _, cosines = nearest(what, train.image_embedding, 1)
        figures[f"nearest_training_cosine_{name}"] = mean(
            cosines[:, 0],
            seed=bench.config.seed,
            what=f"{bench.eyes.embedding_name} cosine of {name} images at {bench.decoder_side} px "
            f"to the nearest of {len(train)} training images",
        )
    return figures


def _embed_prompts(bench: Bench, prompts: Sequence[str]) -> Prompts:
    tokens, mask = tokenize_prompts(prompts, bench.source.context, bench.source.vocab_size)
    return Prompts(tokens=tokens, mask=mask, text_embedding=torch.from_numpy(bench.eyes.read(prompts)))


def _enlarge(bench: Bench, images: torch.Tensor, prompts: Prompts) -> list[torch.Tensor]:
    """Each upsampler's output, one image at a time: sizes grow beyond what a batch should hold."""
    outputs, config = [], bench.config
    for index in range(len(bench.cascade.upsamplers)):
        larger, settings = [], config.sampling.upsamplers[index]
        for i in range(len(images)):
            one = slice(i, i + 1)
            inputs = images[one], index, prompts.tokens[one], prompts.mask[one]
            larger.append(bench.cascade.upsample(*inputs, seed=config.seed, settings=settings, first_index=i))
        images = torch.cat(larger)
        outputs.append(images)
    return outputs


def _of_prompt(images: np.ndarray, prompt: int, samples: int) -> np.ndarray:
    part: np.ndarray = images[prompt * samples : (prompt + 1) * samples]
    return part
