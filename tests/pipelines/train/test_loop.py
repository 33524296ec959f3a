"""The loop on one rank and plain torch: it learns, averages, journals, and says when it cannot go on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from infra.journal import Journal
from pipelines.train.checkpoint import Checkpoints, ForeignCheckpointError, State, load
from pipelines.train.job import TrainJob
from pipelines.train.loop import DivergedError, train
from pipelines.train.optimiser import OptimiserSettings

Jobs = Callable[..., TrainJob]


def _final(job: TrainJob) -> State:
    newest = Checkpoints(job.work).newest_valid()
    assert newest is not None
    return load(newest)


def _difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("stage", ["prior_job", "upsampler_job"])
def test_it_learns_and_says_so(stage: str, request: pytest.FixtureRequest) -> None:
    make: Jobs = request.getfixturevalue(stage)
    job = make(steps=60, validate_every=30, optimiser=OptimiserSettings(lr=3e-3))
    train(job)
    state = _final(job)
    checks = [entry for entry in state.history if "validation_loss" in entry]
    assert [entry["step"] for entry in checks] == [0, 30, 60]
    assert checks[-1]["validation_loss"] < checks[0]["validation_loss"]
    assert (state.cursor.step, state.cursor.epoch, state.cursor.position) == (60, 20, 0)
    events = [e for e in Journal(job.journal).events() if "loss" in e["values"]]
    assert [e["step"] for e in events] == list(range(2, 61, 2))
    assert set(events[0]["values"]) == {"loss", "grad_norm", "lr", "samples_per_s"}


def test_buffers_that_nobody_fitted_are_refused(ar_prior_job: Jobs) -> None:
    with pytest.raises(TypeError, match=r"must bring exactly those .* not so for \['codec.dot_counts'"):
        train(ar_prior_job(buffers=None))


def test_micro_batches_add_up_to_the_batch(upsampler_job: Jobs) -> None:
    whole, parts = upsampler_job("whole", steps=3), upsampler_job("parts", steps=3, micro_batch=2)
    train(whole)
    train(parts)
    assert _difference(_final(whole).weights, _final(parts).weights) < 1e-5
    assert _final(whole).history[1]["grad_norm"] == pytest.approx(
        _final(parts).history[1]["grad_norm"], rel=1e-4
    )


def test_the_average_follows_its_formula(prior_job: Jobs) -> None:
    jobs = [prior_job(f"to_{steps}", steps=steps, ema_decay=0.3) for steps in (1, 2, 3)]
    jobs = [
        TrainJob(**{f: getattr(job, f) for f in job.__slots__} | {"optimiser": OptimiserSettings(lr=1e-2)})
        for job in jobs
    ]
    for job in jobs:
        train(job)
    states = [_final(job) for job in jobs]
    decays = [min(0.3, (1 + n) / (10 + n)) for n in range(3)]
    for name, first in states[0].weights.items():
        # After update 1 the average is d0 w0 + (1 - d0) w1: what remains of w0 is read off it.
        average = states[0].ema[name]
        assert torch.isfinite(average).all() and average.shape == first.shape
        for n in (1, 2):
            average = decays[n] * average + (1 - decays[n]) * states[n].weights[name]
            torch.testing.assert_close(states[n].ema[name], average, rtol=1e-4, atol=1e-6)


def test_sample_weights_reach_the_loss(prior_job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, heavy = prior_job("plain", steps=2), prior_job("heavy", steps=2)
    train(plain)
    from pipelines.train import stream

    original = stream.Stream.__init__

    def doubled(self: stream.Stream, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        self._weight *= 2

    monkeypatch.setattr(stream.Stream, "__init__", doubled)
    train(heavy)
    first, second = _final(plain).history[1], _final(heavy).history[1]
    # The second of two updates starts from other weights, so the window's mean is only about twice as large.
    assert second["loss"] == pytest.approx(2 * first["loss"], rel=0.01)


def test_a_diverging_run_stops_and_says_what_to_do(prior_job: Jobs) -> None:
    job = prior_job(steps=40, optimiser=OptimiserSettings(lr=1e30, clip_norm=0))
    with pytest.raises(DivergedError, match=r"step \d+: loss .* lower the learning rate"):
        train(job)


def test_a_checkpoint_of_another_training_is_refused(prior_job: Jobs) -> None:
    train(prior_job(steps=4, tracking_id="one"))
    with pytest.raises(ForeignCheckpointError, match=r"'one'.*'two'"):
        train(prior_job(steps=8, tracking_id="two"))


def test_bf16_trains_close_to_fp32_on_fp32_weights(upsampler_job: Jobs) -> None:
    job = upsampler_job("half", steps=4, precision="bf16")
    train(job)
    train(upsampler_job("full", steps=4))
    half, full = _final(job), _final(upsampler_job("full", steps=4))
    assert all(tensor.dtype == torch.float32 for tensor in half.weights.values())
    assert half.history[-1]["validation_loss"] == pytest.approx(full.history[-1]["validation_loss"], rel=0.05)
    assert _difference(half.weights, full.weights) > 0


def test_the_loop_needs_neither_ray_nor_deepspeed_nor_a_tokenizer() -> None:
    program = (
        "import sys, json; import pipelines.train.loop; "
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(result.stdout))
    assert {"torch", "numpy", "pyarrow", "jaxtyping"} <= loaded
    assert not loaded & {"ray", "deepspeed", "open_clip", "mlflow", "pydantic", "PIL", "safetensors"}
