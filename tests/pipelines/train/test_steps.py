"""What recipes may say, what is refused before any work, and what an artifact holds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from infra.journal import Journal
from infra.progress import Progress
from infra.store import Store
from models.ar_prior import AutoregressivePrior
from models.config import from_tagged, parameter_count
from models.pca import Pca
from pipelines.step import Context, Estimate, step_address
from pipelines.train import launch
from pipelines.train.config import TrainConfig, TrainResources
from pipelines.train.cost import START_S, cost_of
from pipelines.train.job import TrainJob
from pipelines.train.loop import train
from pipelines.train.precision import choose_numerics
from pipelines.train.prior_steps import TrainARPrior, TrainPrior
from pipelines.train.steps import TrainDecoder, TrainStep, TrainUpsampler
from pipelines.train.stream import Stream
from tests.pipelines.train.fixtures import CONTEXT, VOCAB, Tiny

WIRING = {"corpus": "c", "embeddings": "e", "verdict": "v"}
COMMON: dict[str, Any] = {**WIRING, "steps": 4, "batch": 4, "ranks": 1, "optimiser": {"lr": 1e-3}}
PRIOR = {
    **COMMON,
    "network": {
        "embedding_dim": 16,
        "context": CONTEXT,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "vocab_size": VOCAB,
    },
}
AR_PRIOR = {
    **COMMON,
    "network": {
        "embedding_dim": 16,
        "components": 12,
        "vocab_size": VOCAB,
        "text_context": CONTEXT,
        "text_width": 16,
        "text_layers": 1,
        "text_heads": 2,
        "context": 16,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "buckets": 32,
    },
    "least_variance": 0.5,
}
DECODER = {
    **COMMON,
    "network": {
        "embedding_dim": 16,
        "image_size": 16,
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [8],
        "num_head_channels": 8,
        "norm_groups": 4,
        "vocab_size": VOCAB,
        "text_context": CONTEXT,
        "text_width": 16,
        "text_layers": 1,
        "text_heads": 2,
    },
}
UPSAMPLER = {
    **COMMON,
    "network": {
        "image_size": 64,
        "low_res_size": 16,
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_res_blocks": 1,
        "norm_groups": 4,
        "learned_variance": False,
        "residual": True,
    },
    "diffusion": {"prediction": "x0", "variance": "fixed_small"},
    "degradation": "blur",
}
GLIDE = {**DECODER, "network": {**DECODER["network"], "embedding_dim": None}, "drop_text": 0.2}
READING_UPSAMPLER = {
    **UPSAMPLER,
    "network": {
        **UPSAMPLER["network"],
        "num_res_blocks": [1, 2],
        "middle_attention": True,
        "num_head_channels": 8,
        "efficient": True,
        "noise_conditioning": True,
        "text": {"vocab_size": VOCAB, "context": CONTEXT, "width": 8, "layers": 1, "heads": 1},
    },
}
FEATURES = {"features_dim": 8, "context": CONTEXT, "width": 8, "time_width": 32}
STAGES: list[tuple[TrainStep[Any], dict[str, Any]]] = [
    (TrainPrior(), PRIOR),
    (TrainARPrior(), AR_PRIOR),
    (TrainDecoder(), DECODER),
    (TrainUpsampler(), UPSAMPLER),
    (TrainDecoder(), GLIDE),
    (TrainUpsampler(), READING_UPSAMPLER),
]


@pytest.mark.parametrize(
    ("step", "config", "changes", "message"),
    [
        (TrainPrior(), PRIOR, {"batch": 5, "ranks": 2}, "batch 5 must be divisible by ranks 2"),
        (TrainPrior(), PRIOR, {"micro_batch": 3}, "4 samples must be divisible by micro_batch 3"),
        (TrainPrior(), PRIOR, {"optimiser": {"lr": -1}}, "expected lr and eps above 0"),
        (TrainPrior(), PRIOR, {"optimiser": {"lr": 1, "betas": 1}}, "betas"),
        (TrainPrior(), PRIOR, {"zero_stage": 4}, "zero_stage"),
        (TrainPrior(), PRIOR, {"diffusion": {"prediction": "x0"}}, "no variance output"),
        (TrainDecoder(), DECODER, {"diffusion": {"variance": "fixed_small"}}, "learns its variance"),
        (TrainUpsampler(), UPSAMPLER, {"crop_fraction": 0.1}, "crops of 6 px must be divisible by"),
        (TrainUpsampler(), UPSAMPLER, {"diffusion": {"variance": "fixed_small"}}, "must be 'x0', got 'epsi"),
        (TrainUpsampler(), UPSAMPLER, {"diffusion": {"prediction": "x0"}}, "both must learn the variance"),
        (
            TrainUpsampler(),
            UPSAMPLER,
            {"network": {**UPSAMPLER["network"], "text": FEATURES}},
            "upsamplers are trained on token ids",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_the_recipe_is_read(
    step: TrainStep[Any], config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        step.Config(**(config | changes))


def test_more_ranks_than_cpus_or_memory_are_refused_by_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    step = TrainPrior()
    assert step.check(step.Config(**PRIOR)) == []
    cpus, memory = step.check(step.Config(**(PRIOR | {"batch": 512, "ranks": 512})))
    assert "512 ranks of 1 threads need 512 CPUs" in cpus
    assert "512 ranks need about 3" in memory
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    assert step.check(step.Config(**(PRIOR | {"batch": 512, "ranks": 512}))) == []


def test_operations_are_two_per_multiply_add() -> None:
    """Convolutions are nearly all of it: halving the side quarters the operations."""
    network = TrainUpsampler().network(TrainUpsampler.Config(**UPSAMPLER))
    whole, half = cost_of(network, 64), cost_of(network, 32)
    assert whole.forward_flop / half.forward_flop == pytest.approx(4, rel=0.01)
    first_convolution = 2 * 6 * 8 * 9 * 64 * 64
    assert whole.forward_flop > 10 * first_convolution


@pytest.mark.parametrize(("step", "config"), STAGES)
def test_an_estimate_counts_parameters_operations_and_time(
    step: TrainStep[Any], config: dict[str, Any]
) -> None:
    parsed = step.Config(**config)
    real = parameter_count(step.network(parsed).build())
    longer = step.Config(**(config | {"steps": 400_000}))
    estimate = step.estimate(parsed, {"corpus": Estimate(rows=7)})
    assert estimate.rows == 7
    assert estimate.disk_bytes == 40 * real
    hundred_thousand_times = (step.estimate(longer, {}).seconds - START_S) / (estimate.seconds - START_S)
    assert hundred_thousand_times == pytest.approx(1e5, rel=1e-3)


def test_the_choice_of_numerics_gives_its_reason_and_enters_the_identity() -> None:
    assert choose_numerics("cpu", "bf16").reason == "as the recipe says"
    assert choose_numerics("cuda", "auto").precision == "bf16"
    step = TrainPrior()
    addresses = {
        step_address(step, step.Config(**PRIOR, device="cpu", precision=precision), {})
        for precision in ("fp32", "bf16")
    }
    assert len(addresses) == 2


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank in this process: what a step writes does not depend on who started the ranks."""

    def fit(job: TrainJob, **_: Any) -> None:
        train(job)

    monkeypatch.setattr(launch, "fit", fit)


def _context(
    step: TrainStep[Any], config: TrainConfig, tiny: Tiny, root: Path
) -> Context[Any, TrainResources]:
    address = step_address(step, config, {name: a.content for name, a in tiny.inputs.items()})
    return Context(
        config=config,
        resources=TrainResources(prefetch=0),
        inputs=tiny.inputs,
        draft=Store(root).draft(step.produces, address),
        journal=Journal(root / "journal.jsonl"),
        progress=Progress("train", quiet=True),
    )


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(("step", "config"), STAGES)
def test_an_artifact_rebuilds_its_network_and_accounts_for_every_kept_sample(
    step: TrainStep[Any], config: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    context = _context(step, step.Config(**config, zero_stage=None), tiny, tmp_path)
    summary = step.run(context)
    folder = context.draft.path
    described = json.loads((folder / "config.json").read_bytes())
    network = from_tagged(described["network"]).build()
    for name in ("model", "ema"):
        network.load_state_dict(load_file(folder / f"{name}.safetensors"))
    assert described["encoder"]["name"] == "tiny"
    assert summary["samples_seen"] == 16
    assert summary["validation_loss_untrained"] > 0
    assert all(isinstance(value, int | float) for value in summary.values())
    history = json.loads((folder / "training.json").read_bytes())["history"]
    assert [entry["step"] for entry in history] == [0, 4, 4]
    (rows,) = context.fixed_rows
    assert (rows.total, rows.kept, rows.dropped) == (36, 24, 12)
    assert rows.reasons == {"held out: test": 8, "held out: validation": 4}


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(("step", "config"), STAGES[:2])
def test_the_same_training_writes_the_same_bytes(
    step: TrainStep[Any], config: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    files: list[dict[str, bytes]] = []
    for name in ("a", "b"):
        context = _context(step, step.Config(**config, zero_stage=None), tiny, tmp_path / name)
        step.run(context)
        files.append({p.name: p.read_bytes() for p in context.draft.path.iterdir() if p.is_file()})
    assert files[0] == files[1]
    weights = {"model.safetensors", "ema.safetensors"}
    assert set(files[0]) - {"noise_powers.safetensors"} == {"config.json", "training.json"} | weights


@pytest.mark.usefixtures("without_ray")
def test_a_prior_brings_what_its_sampling_needs(tiny: Tiny, tmp_path: Path) -> None:
    """Noise powers of one step each a respacing; the codec of the training embeddings, and of no others."""
    step: TrainStep[Any] = TrainPrior()
    config = step.Config(**PRIOR, zero_stage=None, analytic_steps=(3, "2,2"), analytic_samples=10)
    context = _context(step, config, tiny, tmp_path / "diffusion")
    step.run(context)
    powers = load_file(context.draft.path / "noise_powers.safetensors")
    assert {name: tuple(power.shape) for name, power in powers.items()} == {"3": (3,), "2,2": (4,)}
    assert all(bool((power > 0).all()) for power in powers.values())

    step = TrainARPrior()
    context = _context(step, step.Config(**AR_PRIOR, zero_stage=None), tiny, tmp_path / "ar")
    step.run(context)
    state = load_file(context.draft.path / "ema.safetensors")
    index = context.draft.work / "index.arrow"
    images = torch.from_numpy(Stream(index, split="train", seed=0).read_in_key_order(0, 24).image_embedding)
    torch.testing.assert_close(state["codec.pca.mean"], images.mean(dim=0), rtol=0, atol=1e-6)
    assert int(state["codec.dot_counts"].sum()) == 24
    prior = step.network(context.config).build()
    prior.load_state_dict(state)
    assert isinstance(prior, AutoregressivePrior)
    tokens = prior.codec.encode(images)
    assert tokens.amin(dim=0).tolist() == [0] * 12 and tokens.amax(dim=0).tolist() == [31] * 12


@pytest.mark.usefixtures("without_ray")
def test_components_that_hold_too_little_are_refused_with_the_number_that_would_do(
    tiny: Tiny, tmp_path: Path
) -> None:
    step = TrainARPrior()
    config = step.Config(**(AR_PRIOR | {"least_variance": 0.999}))
    with pytest.raises(ValueError, match=r"12 hold \d+\.\d+ % .* is 0.999; give 1[3-6] components"):
        step.run(_context(step, config, tiny, tmp_path))


def test_components_that_hold_what_is_asked_but_for_the_last_digits_are_enough(
    tiny: Tiny, tmp_path: Path
) -> None:
    images = torch.from_numpy(
        Stream(tiny.index, split="train", seed=0).read_in_key_order(0, 24).image_embedding
    )
    held = float(Pca.fit([images]).explained()[11])
    step = TrainARPrior()
    context = _context(step, step.Config(**(AR_PRIOR | {"least_variance": held + 5e-7})), tiny, tmp_path)
    context.draft.work.mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny.index, context.draft.work / "index.arrow")
    assert "codec.pca.mean" in step.fit_buffers(context)
    context = dataclasses.replace(context, config=step.Config(**(AR_PRIOR | {"least_variance": held + 1e-4})))
    with pytest.raises(ValueError, match=r"12 hold .* give 13 components"):
        step.fit_buffers(context)


def test_respacings_that_cannot_be_are_a_problem_of_the_plan() -> None:
    step = TrainPrior()
    (problem,) = step.check(step.Config(**PRIOR, analytic_steps=(64, 2000)))
    assert "analytic_steps: spaced_steps: section 0 of 2000 asks for 2000 steps" in problem


@pytest.mark.usefixtures("without_ray")
def test_embeddings_of_another_width_are_refused_with_both_widths(tiny: Tiny, tmp_path: Path) -> None:
    network: dict[str, Any] = {**PRIOR["network"], "embedding_dim": 32}
    step = TrainPrior()
    context = _context(step, step.Config(**(PRIOR | {"network": network})), tiny, tmp_path)
    with pytest.raises(ValueError, match=r"embedding_dim is 32, but .* of 16 dimensions \(encoder 'tiny'\)"):
        step.run(context)


def test_lost_ranks_are_told_from_ranks_that_raised() -> None:
    from ray.exceptions import RayActorError

    gone: Callable[[], Exception] = RayActorError
    assert launch._lost_rank({0: launch.LostPeerError("gloo"), 1: gone()}) == (
        "rank 0 lost its peer, rank 1 died"
    )
    assert launch._lost_rank({0: ValueError("mine"), 1: launch.LostPeerError("gloo")}) is None


def test_rounding_of_ranks_does_not_change_what_is_seeded(prior_job: Callable[..., TrainJob]) -> None:
    """The initial weights depend on the seed alone."""
    from pipelines.train.loop import build_network

    one = build_network(prior_job(), torch.device("cpu")).state_dict()
    two = build_network(prior_job(ranks=2), torch.device("cpu")).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
