"""Inpainting: networks widened and ordinary ones, masks for training, and what stays as it was."""

import dataclasses

import pytest
import torch
from torch import nn

from models.cascade import UnCLIP
from models.inpainting import Known, draw_mask, widened
from models.sampling import CascadeSampling, StageSampling
from tests.models.tiny import DECODER, UNCLIP, UPSAMPLER, prompts, randomised, unit

TOKENS, MASK = prompts([4, 6])
STAGES = CascadeSampling(
    prior=StageSampling(sampler="ddpm", steps=3),
    decoder=StageSampling(sampler="ddpm", steps=4, guidance=2.0),
    upsamplers=(StageSampling(steps=3),),
)


def pictures(seed: int = 0) -> Known:
    """Two pictures of which the left part is known, and all but a hole."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    mask[0, :, :, 20:] = False
    mask[1, :, 9:17, 4:21] = False
    return Known(pixels_m11=torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1, mask=mask)


def shown(side: int, seed: int = 5) -> torch.Tensor:
    """Anything at all on the extra channels."""
    return 100 * torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(seed))


def test_a_widened_network_is_the_same_function_bit_for_bit() -> None:
    t, x = torch.tensor([3, 77]), torch.randn(2, 3, 32, 32)
    for patch in (1, 2):
        decoder = randomised(dataclasses.replace(DECODER, patch_size=patch, image_size=16 * patch).build())
        conditions = decoder.condition(unit(2), TOKENS, MASK).as_kwargs()
        expected, wide = decoder.denoise(x, t, **conditions), widened(decoder)
        assert torch.equal(wide.denoise(x, t, **conditions), expected)
        assert torch.equal(wide.denoise(x, t, **conditions, known=shown(32)), expected)
        upsampler = randomised(dataclasses.replace(UPSAMPLER, patch_size=patch).build())
        expected, wide = upsampler(x, t, x[:, :, ::2, ::2]), widened(upsampler)
        assert torch.equal(wide(x, t, x[:, :, ::2, ::2], known=shown(32)), expected)


def test_the_new_channels_are_seen_once_their_weights_are_trained() -> None:
    wide = randomised(widened(UPSAMPLER.build()))
    t, x, known = torch.tensor([3, 77]), torch.randn(2, 3, 32, 32), pictures()
    nothing = Known(pixels_m11=known.pixels_m11, mask=torch.zeros_like(known.mask))
    low_res = x[:, :, ::2, ::2]
    assert not torch.allclose(wide(x, t, low_res, known=known.channels()), wide(x, t, low_res))
    assert torch.equal(wide(x, t, low_res, known=nothing.channels()), wide(x, t, low_res))


def test_only_known_pixels_are_shown_and_small_ones_are_known_where_all_they_cover_is() -> None:
    known = pictures()
    leaky = known.pixels_m11.masked_fill(~known.mask, 9.0)
    poisoned = Known(pixels_m11=leaky, mask=known.mask)
    assert torch.equal(poisoned.channels(), known.channels())
    small = poisoned.at((16, 16))
    assert float(small.pixels_m11.masked_fill(~small.mask, 0).max()) <= 1
    # The hole of rows 9 to 16 and columns 4 to 20 touches small rows 4 to 8 and columns 2 to 10.
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[4:9, 2:11] = True
    assert torch.equal(small.mask[1, 0], ~hole)


def models() -> dict[str, UnCLIP]:
    plain = randomised(UnCLIP(UNCLIP))
    wide = randomised(UnCLIP(UNCLIP))
    wide.decoder = widened(wide.decoder)
    wide.upsamplers = nn.ModuleList([widened(u) for u in wide.upsamplers])
    config = dataclasses.replace(
        UNCLIP, decoder=wide.decoder.config, upsamplers=tuple(u.config for u in wide.upsamplers)
    )
    wide.config = config
    return {"ordinary": plain, "widened": randomised(wide, 1)}


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpm_solver_pp_2m"])
@pytest.mark.parametrize("kind", ["ordinary", "widened"])
def test_known_pixels_stay_exactly_and_the_rest_is_new(kind: str, sampler: str) -> None:
    model, known = models()[kind], pictures()
    decoder = dataclasses.replace(STAGES.decoder, sampler=sampler)
    sampling = dataclasses.replace(STAGES, decoder=decoder)

    def inpaint(known: Known, seed: int = 0) -> tuple[torch.Tensor, ...]:
        return model.inpaint(known, TOKENS, MASK, unit(2), seed=seed, sampling=sampling).images_m11

    images = inpaint(known)
    for image in images:
        at = known.at(tuple(image.shape[2:]))
        assert torch.equal(torch.where(at.mask, image, 0), torch.where(at.mask, at.pixels_m11, 0))
        assert float(image.abs().max()) <= 1
    assert torch.equal(at.mask, known.mask)
    other = inpaint(known, seed=1)
    assert not torch.allclose(other[-1], images[-1])
    # What was erased must not leak into what takes its place.
    poisoned = Known(pixels_m11=known.pixels_m11.masked_fill(~known.mask, 0.5), mask=known.mask)
    assert torch.equal(inpaint(poisoned)[-1], images[-1])


def test_an_ordinary_decoder_fits_what_it_paints_to_what_is_known() -> None:
    """On data it knows exactly: pixels of one picture are all alike, so half of one tells the other half.

    The denoiser is the closed form for a constant picture of standard normal brightness.
    """
    from models.diffusion.noise import SampleNoise
    from models.diffusion.samplers import ddim
    from models.inpainting import KnownRegion

    process = UNCLIP.upsampler_diffusions[0].build()

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        abar = process.alphas_cumprod[t].float().reshape(-1, 1, 1, 1)
        pixels = x_t[0].numel()
        total = x_t.sum(dim=(1, 2, 3), keepdim=True)
        return (abar.sqrt() * total / (pixels * abar + 1 - abar)).expand_as(x_t)

    brightness = torch.tensor([0.8, -0.4, 0.1]).reshape(-1, 1, 1, 1)
    mask = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    mask[..., :3] = True
    known = Known(pixels_m11=brightness.expand(3, 3, 4, 4).contiguous(), mask=mask)
    x_T = SampleNoise(0, 3).draw((3, 4, 4))
    free = ddim(process, denoise, x_T)
    held = ddim(process, KnownRegion(denoise, process, known), x_T)
    error = (held - brightness).abs().amax(dim=(1, 2, 3))
    assert bool((error < 0.15).all()) and bool((error < (free - brightness).abs().amax(dim=(1, 2, 3))).all())


def test_masks_erase_rectangles_and_sometimes_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack([draw_mask((24, 40), generator) for _ in range(2000)])
    known = masks.float().mean(dim=(1, 2, 3))
    assert float((known == 0).float().mean()) == pytest.approx(0.1, abs=0.03)
    assert float(1 - known.mean()) == pytest.approx(0.60, abs=0.03)
    assert float(known.max()) < 1
    assert torch.equal(
        draw_mask((8, 8), torch.Generator().manual_seed(1)),
        draw_mask((8, 8), torch.Generator().manual_seed(1)),
    )


def test_bad_input_is_refused() -> None:
    model, known = models()["ordinary"], pictures()
    with pytest.raises(ValueError, match="pictures of 32x32 px, got 16x16"):
        model.inpaint(known.at((16, 16)), TOKENS, MASK, unit(2), seed=0, sampling=STAGES)
    broken = Known(pixels_m11=known.pixels_m11 * float("nan"), mask=known.mask)
    with pytest.raises(ValueError, match="finite known pixels"):
        model.inpaint(broken, TOKENS, MASK, unit(2), seed=0, sampling=STAGES)
    with pytest.raises(ValueError, match="takes no known pixels: widen it"):
        model.upsamplers[0](
            torch.zeros(2, 3, 32, 32), torch.tensor([1, 1]), torch.zeros(2, 3, 16, 16), known=shown(32)
        )
    with pytest.raises(ValueError, match="inpainting network already"):
        widened(models()["widened"].decoder)
