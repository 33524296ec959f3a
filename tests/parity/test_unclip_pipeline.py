"""An exported model in diffusers' own pipeline: it loads, and draws the pictures that ours does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UnCLIPPipeline
from diffusers.pipelines.deprecated.unclip import pipeline_unclip
from diffusers.schedulers import scheduling_unclip
from torch import Tensor

from models.cascade import DECODER_STREAM, PRIOR_STREAM, UPSAMPLER_STREAM
from models.diffusion.noise import SampleNoise
from models.diffusion.schedule import cosine_betas
from models.sampling import CascadeSampling, StageSampling
from pipelines.cascade_io import read_cascade
from pipelines.encoders.clip_text import ClipText
from pipelines.interop.exports import export_diffusers
from tests.tiny_unclip import tiny_unclip

SEED, PROMPTS = 4, ["cat", "a dog"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("unclip")
    model = tiny_unclip(root)
    return model, export_diffusers(model, root / "diffusers")


def load(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = UnCLIPPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for scheduler in (pipeline.prior_scheduler, pipeline.decoder_scheduler, pipeline.super_res_scheduler):
        in_float64(scheduler)
    return pipeline


def in_float64(scheduler: Any) -> None:
    """Its schedule as ours has it.  In float32, as it comes, the last step's alpha of 0.001 is off by 6e-5 of
    itself, which networks of random weights make up to 0.09 of."""
    theirs, scheduler.betas = scheduler.betas, cosine_betas(scheduler.config.num_train_timesteps)
    torch.testing.assert_close(theirs.double(), scheduler.betas, rtol=0, atol=1e-7)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)


class OurNoise:
    """Stands in for the pipeline's random numbers: every stage draws what ours draws."""

    def __init__(self, count: int) -> None:
        self._stages = [
            SampleNoise(SEED, count, stream=stream)
            for stream in (PRIOR_STREAM, DECODER_STREAM, UPSAMPLER_STREAM)
        ]
        self._now = -1

    def latents(self, shape: tuple[int, ...], **_: Any) -> Tensor:
        self._now += 1
        return self.step(shape)

    def step(self, shape: tuple[int, ...], **_: Any) -> Tensor:
        return self._stages[self._now].draw(tuple(shape)[1:])


@pytest.mark.parametrize(("prior_scale", "decoder_scale"), [(4.0, 8.0), (1.0, 1.0)])
def test_the_pipeline_draws_our_pictures(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, prior_scale: float, decoder_scale: float
) -> None:
    """Captions through its own text encoder, guidance, variances, both super-resolution networks."""
    model_dir, exported = folders
    noise = OurNoise(len(PROMPTS))
    monkeypatch.setattr(pipeline_unclip, "randn_tensor", noise.latents)
    monkeypatch.setattr(scheduling_unclip, "randn_tensor", noise.step)
    expected = load(exported)(
        PROMPTS,
        prior_num_inference_steps=4,
        decoder_num_inference_steps=4,
        super_res_num_inference_steps=3,
        prior_guidance_scale=prior_scale,
        decoder_guidance_scale=decoder_scale,
        output_type="np",
    ).images

    model, encoder = read_cascade(model_dir).model, ClipText(model_dir)
    features, mask = encoder.features(PROMPTS)
    generated = model.generate(
        features,
        mask,
        torch.from_numpy(encoder.encode_texts(PROMPTS)),
        seed=SEED,
        sampling=CascadeSampling(
            prior=StageSampling(sampler="ddpm", steps=4, guidance=prior_scale),
            decoder=StageSampling(sampler="ddpm", steps=4, guidance=decoder_scale),
            upsamplers=(StageSampling(sampler="ddpm", steps=3),),
            prior_candidates=1,
        ),
    )
    ours = generated.images_m11[-1].mul(0.5).add(0.5).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.1 and np.abs(expected[0] - expected[1]).max() > 0.1
    # Measured 1.3e-5.  At the first step 1 / sqrt(abar) is 20,000: a pixel whose noise a network of random
    # weights happens to predict within 1 / 20,000 is not clipped, and magnifies the rounding of two kernels.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
