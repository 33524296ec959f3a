import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

from models.bsr import BsrSettings
from models.degradation import blur, bsr, downsample


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """A real photograph, not square: 96 x 160."""
    pixels = np.ascontiguousarray(load_sample_image("china.jpg")[120:216, 200:360])
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * ((a - b) ** 2 / 4).mean().log10())


def test_blur_is_the_gaussian_of_kernel_3_and_sigma_06() -> None:
    impulse = torch.zeros(1, 3, 7, 7)
    impulse[..., 3, 3] = 1
    taps = torch.tensor([np.exp(-0.5 / 0.36), 1, np.exp(-0.5 / 0.36)])
    taps = (taps / taps.sum()).float()
    expected = torch.outer(taps, taps)
    for channel in range(3):
        torch.testing.assert_close(blur(impulse)[0, channel, 2:5, 2:5], expected)


def test_blur_keeps_constants_up_to_the_border(photo: Tensor) -> None:
    flat = torch.full((2, 3, 9, 5), 0.4)
    torch.testing.assert_close(blur(flat), flat)
    assert float(blur(photo).diff(dim=3).abs().mean()) < float(photo.diff(dim=3).abs().mean())


def test_downsample_averages_areas(photo: Tensor) -> None:
    small = downsample(photo, (24, 40))
    expected = photo.reshape(1, 3, 24, 4, 40, 4).mean(dim=(3, 5))
    torch.testing.assert_close(small, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="larger than the image"):
        downsample(small, 48)


@pytest.mark.parametrize("scale", [2, 4])
def test_bsr_keeps_the_picture_and_its_orientation(photo: Tensor, scale: int) -> None:
    """Nearer to the plain small image than to a mirrored, upturned or grey one, whatever operations came."""
    before = photo.clone()
    batch = photo.expand(12, -1, -1, -1)
    out = bsr(batch, scale, seeded())
    plain = downsample(photo, (96 // scale, 160 // scale))
    assert out.shape == (12, *plain.shape[1:]) and out.dtype == photo.dtype
    assert float(out.min()) >= -1 and float(out.max()) <= 1
    for one in out:
        others = [plain.flip(2), plain.flip(3), plain.mean(dim=(2, 3), keepdim=True).expand_as(plain)]
        assert psnr(one[None], plain) > max(psnr(one[None], other) for other in others) + 3
    assert torch.equal(photo, before)


def test_bsr_is_the_seeds_alone(photo: Tensor) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = bsr(photo, 4, seeded())
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(bsr(photo, 4, seeded()), first)
    assert not torch.equal(bsr(photo, 4, seeded(1)), first)


def test_bsr_does_not_depend_on_the_batch_split(photo: Tensor) -> None:
    batch = torch.cat([photo, photo.flip(3), photo.flip(2)])
    generator = seeded()
    parts = [bsr(batch[:1], 4, generator), bsr(batch[1:], 4, generator)]
    assert torch.equal(torch.cat(parts), bsr(batch, 4, seeded()))


def test_the_original_settings_degrade_more_than_the_light_ones(photo: Tensor) -> None:
    batch, plain = photo.expand(16, -1, -1, -1), downsample(photo, (24, 40))
    heavy = BsrSettings(noise_levels=(2, 25), jpeg_quality=(30, 95), blur_strength=1.0)
    assert psnr(bsr(batch, 4, seeded(), heavy), plain) < psnr(bsr(batch, 4, seeded()), plain) - 1


def test_sides_that_do_not_divide_are_refused(photo: Tensor) -> None:
    with pytest.raises(ValueError, match="divisible by scale=5, got 96x160"):
        bsr(photo, 5, seeded())
    with pytest.raises(ValueError, match="odd kernel"):
        blur(photo, kernel=4)
