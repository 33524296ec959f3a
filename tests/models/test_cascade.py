import dataclasses

import pytest
import torch
from torch import Tensor

from models.cascade import Generated, Progress, UnCLIP
from models.sampling import CascadeSampling, StageSampling
from tests.models.tiny import UNCLIP, prompts, randomised, unit

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
