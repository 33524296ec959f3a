import dataclasses
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from models.ar_prior import AutoregressivePrior
from models.cascade import Generated, Progress, UnCLIP
from models.inpainting import Known
from models.sampling import CascadeSampling, StageSampling
from tests.models.tiny import (
    AR_PRIOR,
    AR_UNCLIP,
    DECODER,
    DIM,
    UNCLIP,
    UPSAMPLER,
    fitted_codec,
    prompts,
    randomised,
    unit,
)

MODEL = randomised(UnCLIP(UNCLIP))
TOKENS, MASK = prompts([4, 6, 2])
EMBEDDING = unit(3, 5)
SAMPLING = CascadeSampling(
    prior=StageSampling(sampler="ddpm", steps=5, guidance=2.0),
    decoder=StageSampling(sampler="ddpm", steps=4, guidance=1.5),
    upsamplers=(StageSampling(steps=3),),
)


def generate(
    rows: slice = slice(None), *, seed: int = 0, progress: Progress | None = None, **more: int
) -> Generated:
    return MODEL.generate(
        TOKENS[rows],
        MASK[rows],
        EMBEDDING[rows],
        seed=seed,
        sampling=SAMPLING,
        progress=progress,
        **more,  # type: ignore[arg-type]
    )


def test_every_stage_comes_out_in_range_and_prompt_by_prompt() -> None:
    out = generate(samples=2)
    assert [tuple(image.shape) for image in out.images_m11] == [(6, 3, 16, 16), (6, 3, 32, 32)]
    assert all(float(image.abs().max()) <= 1 for image in out.images_m11)
    torch.testing.assert_close(out.image_embeddings.norm(dim=1), torch.ones(6))


def test_a_seed_is_a_result_and_another_seed_another() -> None:
    first, again, other = generate(seed=3), generate(seed=3), generate(seed=4)
    assert torch.equal(first.images_m11[-1], again.images_m11[-1])
    assert not torch.allclose(first.images_m11[0], other.images_m11[0], atol=1e-2)


def test_samples_do_not_depend_on_the_batch_split() -> None:
    together = generate(samples=2)
    parts = [generate(slice(0, 1), samples=2), generate(slice(1, 3), samples=2, first_index=2)]
    for stage in range(2):
        joined = torch.cat([part.images_m11[stage] for part in parts])
        # Kernels differ in their last bits by batch size; a chain of steps carries that along.
        torch.testing.assert_close(joined, together.images_m11[stage], rtol=0, atol=1e-3)


def test_either_prior_samples_by_one_call_and_its_own_random_numbers() -> None:
    model = randomised(UnCLIP(AR_UNCLIP))
    assert isinstance(model.prior, AutoregressivePrior)
    model.prior.codec = fitted_codec(AR_PRIOR, unit(40, 1), unit(40, 2))
    out = model.generate(TOKENS, MASK, EMBEDDING, seed=0, samples=2, sampling=SAMPLING)
    torch.testing.assert_close(out.image_embeddings.norm(dim=1), torch.ones(6))
    last = model.generate(
        TOKENS[2:], MASK[2:], EMBEDDING[2:], seed=0, samples=2, sampling=SAMPLING, first_index=4
    )
    torch.testing.assert_close(last.image_embeddings, out.image_embeddings[4:], rtol=0, atol=1e-6)
    copy = UnCLIP(AR_UNCLIP).eval()
    copy.load_state_dict(model.state_dict())
    again = copy.generate(TOKENS, MASK, EMBEDDING, seed=0, samples=2, sampling=SAMPLING)
    assert torch.equal(again.image_embeddings, out.image_embeddings)


def test_analytic_variance_is_kept_with_the_model_and_asked_for_by_its_steps() -> None:
    model = UnCLIP(dataclasses.replace(UNCLIP, prior_noise_powers=("5", "3,2")))
    state = MODEL.state_dict()
    # Where the network knows all noise, a power of 1, the best variance is the process's own, the small one.
    powers = {"noise_powers.5": torch.full((5,), 0.5), "noise_powers.3,2": torch.ones(5)}
    model.load_state_dict(state | {name: power.double() for name, power in powers.items()})
    model.eval()

    def prior(steps: int | str, variance: Literal["model", "analytic"] = "analytic") -> Tensor:
        settings = StageSampling(sampler="ddpm", steps=steps, variance=variance)
        return model.sample_prior(TOKENS, MASK, EMBEDDING, seed=0, settings=settings)

    assert not torch.allclose(prior(5), prior(5, "model"), atol=1e-3)
    torch.testing.assert_close(prior("3,2"), prior("3,2", "model"), rtol=0, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"for 4 steps, only for 3,2, 5: sample with those or .*analytic_steps"
    ):
        prior(4)


def test_the_prior_keeps_the_draw_nearest_to_the_text() -> None:
    settings = StageSampling(sampler="ddpm", steps=5)

    def cosines(candidates: int, first_index: int = 0, prompts: int = 3) -> Tensor:
        z = MODEL.sample_prior(
            TOKENS[:prompts],
            MASK[:prompts],
            EMBEDDING[:prompts],
            seed=0,
            settings=settings,
            candidates=candidates,
            first_index=first_index,
        )
        return (z * EMBEDDING[:prompts]).sum(dim=1)

    best = cosines(4, prompts=1)
    singles = torch.cat([cosines(1, first_index=i, prompts=1) for i in range(4)])
    torch.testing.assert_close(best[0], singles.max())
    assert len(singles.unique()) == 4


def test_progress_is_told_of_every_step_of_every_stage() -> None:
    seen: list[tuple[str, int, int]] = []
    generate(progress=lambda stage, step, total, _: seen.append((stage, step, total)))
    assert seen == [
        (stage, i + 1, total)
        for stage, total in (("prior", 5), ("decoder", 4), ("upsampler0", 3))
        for i in range(total)
    ]


def test_weights_and_configuration_are_the_whole_model() -> None:
    copy = UnCLIP(UNCLIP).eval()
    copy.load_state_dict(MODEL.state_dict())
    out = copy.generate(TOKENS, MASK, EMBEDDING, seed=0, sampling=SAMPLING)
    assert torch.equal(out.images_m11[-1], generate().images_m11[-1])


def test_bad_input_is_refused_before_any_work() -> None:
    broken = EMBEDDING.clone()
    broken[1, 3] = float("nan")
    with pytest.raises(ValueError, match=r"finite text_embedding, got NaN or infinity in rows \[2, 3\]"):
        MODEL.generate(TOKENS, MASK, broken, seed=0, samples=2, sampling=SAMPLING)
    with pytest.raises(ValueError, match="1 upsamplers, settings for 0"):
        MODEL.generate(TOKENS, MASK, EMBEDDING, seed=0, sampling=dataclasses.replace(SAMPLING, upsamplers=()))
    with pytest.raises(ValueError, match="width 16, got 8"):
        MODEL.generate(TOKENS, MASK, unit(3, dim=8), seed=0, sampling=SAMPLING)


def test_networks_of_half_precision_draw_what_those_of_single_do() -> None:
    """With everything that is told a network besides x_t: known pixels, a noise level, analytic variance."""
    config = dataclasses.replace(
        UNCLIP,
        prior_noise_powers=("5",),
        decoder=dataclasses.replace(DECODER, inpainting=True),
        upsamplers=(dataclasses.replace(UPSAMPLER, inpainting=True, noise_conditioning=True),),
    )
    sampling = dataclasses.replace(
        SAMPLING,
        prior=StageSampling(sampler="ddpm", steps=5, guidance=2.0, variance="analytic"),
        prior_candidates=1,
        upsamplers=(StageSampling(steps=3, noise_level=0.2),),
    )
    g = torch.Generator().manual_seed(0)
    mask = (torch.arange(32) < 8).expand(3, 1, 32, 32)
    known = Known(pixels_m11=torch.rand(3, 3, 32, 32, generator=g) * 2 - 1, mask=mask)
    model = randomised(UnCLIP(config))
    powers = torch.rand(5, generator=g, dtype=torch.float64)
    model.noise_powers.load_state_dict({"5": powers})
    single = model.inpaint(known, TOKENS, MASK, EMBEDDING, seed=0, sampling=sampling)
    model.bfloat16()
    half = model.inpaint(known, TOKENS, MASK, EMBEDDING.bfloat16(), seed=0, sampling=sampling)
    assert half.image_embeddings is not None and half.image_embeddings.dtype == torch.bfloat16
    torch.testing.assert_close(half.image_embeddings.float(), single.image_embeddings, rtol=0, atol=0.05)
    for ours, theirs in zip(half.images_m11, single.images_m11, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).abs().mean()) < 0.05
    assert torch.equal(dict(model.noise_powers.named_buffers())["5"], powers)


def broken(x: Tensor) -> Tensor:
    x = x.clone()
    x[1].view(-1)[3] = float("nan")
    return x


def test_numbers_that_are_not_finite_are_refused_wherever_they_come_in() -> None:
    features = dataclasses.replace(
        DECODER, vocab_size=None, text_layers=None, text_heads=None, text_features_dim=12, text_pooled_dim=DIM
    )
    decoder = dataclasses.replace(features, embedding_dim=None)
    config = dataclasses.replace(UNCLIP, prior=None, prior_diffusion=None, decoder=decoder)
    model = randomised(UnCLIP(config))
    text, mask = torch.randn(3, 6, 12), torch.ones(3, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"finite text, got NaN or infinity in rows \[1\]"):
        model.generate(broken(text), mask, EMBEDDING, seed=0, sampling=SAMPLING)
    with pytest.raises(ValueError, match=r"finite text_pooled, got NaN or infinity in rows \[1\]"):
        model.generate(text, mask, broken(EMBEDDING), seed=0, sampling=SAMPLING)
    settings, noise = SAMPLING.decoder, torch.randn(3, 3, 16, 16)
    with pytest.raises(ValueError, match="finite x_T"):
        MODEL.decode(EMBEDDING, TOKENS, MASK, seed=0, settings=settings, x_T=broken(noise))
    with pytest.raises(ValueError, match="finite image_embedding"):
        MODEL.guided_decoder(broken(EMBEDDING), TOKENS, MASK, 1.0)


def test_rows_that_do_not_go_together_are_named() -> None:
    """Below `generate` and `inpaint`, whose signatures say the same and are checked in tests alone."""
    draw: dict[str, Any] = {"seed": 0, "sampling": SAMPLING, "first_index": 0, "progress": None}
    with pytest.raises(ValueError, match=r"text_mask of shape \(3, 6\), as the text, got \(3, 1\)"):
        MODEL._draw(TOKENS, MASK[:, :1], EMBEDDING, known=None, **draw)
    with pytest.raises(ValueError, match="one row of text_embedding for each of the 3 texts, got 2"):
        MODEL._draw(TOKENS, MASK, EMBEDDING[:2], known=None, **draw)
    known = Known(pixels_m11=torch.zeros(1, 3, 32, 32), mask=torch.ones(1, 1, 32, 32, dtype=torch.bool))
    with pytest.raises(ValueError, match="one row of known for each of the 3 texts, got 1"):
        MODEL._draw(TOKENS, MASK, EMBEDDING, known=known, **draw)


def test_without_guidance_no_null_is_asked_for() -> None:
    """It may never have been given, and costs an encoding."""
    features = {"vocab_size": None, "text_layers": None, "text_heads": None, "text_features_dim": 12}
    decoder = dataclasses.replace(DECODER, **features, embedding_dim=None, null_text="given")  # type: ignore[arg-type]
    stages = {"prior": None, "prior_diffusion": None, "upsamplers": (), "upsampler_diffusions": ()}
    model = UnCLIP(dataclasses.replace(UNCLIP, decoder=decoder, **stages)).eval()  # type: ignore[arg-type]
    text, mask = torch.randn(1, 6, 12), torch.ones(1, 6, dtype=torch.bool)
    free = dataclasses.replace(SAMPLING, decoder=StageSampling(steps=2))
    assert model.generate(text, mask, seed=0, sampling=free).images_m11[0].isfinite().all()
    with pytest.raises(ValueError, match="never given; call set_null"):
        model.generate(text, mask, seed=0, sampling=SAMPLING)


def test_a_cascade_is_built_on_the_meta_device_and_its_processes_are_whole() -> None:
    linear = dataclasses.replace(UNCLIP.decoder_diffusion, schedule="linear")
    config = dataclasses.replace(UNCLIP, prior_noise_powers=("5",), decoder_diffusion=linear)
    with torch.device("meta"):
        model = config.build()
        process = model.decoder_diffusion.spaced(5)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert process.timestep_map.tolist() == [0, 25, 50, 74, 99]
    torch.testing.assert_close(process.betas, linear.build().spaced(5).betas)
