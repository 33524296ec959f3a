"""Guarantee 4: training resumes exactly, from checkpoints that know no engine, ZeRO stage or rank count."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from infra.journal import Journal
from infra.store import Artifact, Store
from models.diffusion.timesteps import LossAwareTimesteps
from pipelines.train.checkpoint import TENSORS, Checkpoints, State, load
from pipelines.train.job import TrainJob
from pipelines.train.loop import train
from pipelines.train.objectives import PriorObjective
from pipelines.train.optimiser import OptimiserSettings
from tests.pipelines.train import driver
from tests.pipelines.train.fixtures import PRIOR_PROCESS
from tests.pipelines.train.ranks import run_ranks

pytest_plugins = ["tests.pipelines.train.fixtures"]

Jobs = Callable[..., TrainJob]


def _final(job: TrainJob) -> State:
    newest = Checkpoints(job.work).newest_valid()
    assert newest is not None and newest.name == f"step_{job.steps:08d}"
    return load(newest)


def _assert_same_bits(got: State, expected: State) -> None:
    for kind in TENSORS:
        a, b = getattr(got, kind), getattr(expected, kind)
        assert list(a) == list(b)
        assert all(torch.equal(a[name], b[name]) for name in a), kind
    assert got.history == expected.history
    assert got.cursor == expected.cursor


def _interrupted_at(job: TrainJob, step: int, name: str) -> TrainJob:
    """The same job in another folder, where it was killed after the checkpoint of `step`."""
    here = job.work.parent / name
    interrupted = replace(job, work=here, journal=here / "journal.jsonl")
    folder = f"checkpoints/step_{step:08d}"
    shutil.copytree(job.work / folder, interrupted.work / folder)
    # What it wrote after that checkpoint must be forgotten, not doubled.
    shutil.copy(job.journal, interrupted.journal)
    return interrupted


def _metrics(job: TrainJob) -> list[tuple[int, dict[str, float]]]:
    events = [e for e in Journal(job.journal).events() if e["type"] == "metrics"]
    return [(e["step"], {k: v for k, v in e["values"].items() if k != "samples_per_s"}) for e in events]


@pytest.mark.parametrize("stage", ["prior_job", "ar_prior_job", "upsampler_job"])
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_killed_and_resumed_is_the_uninterrupted_run_bit_for_bit(
    stage: str, micro_batch: int | None, request: pytest.FixtureRequest
) -> None:
    whole: TrainJob = request.getfixturevalue(stage)("whole", micro_batch=micro_batch)
    train(whole)
    resumed = _interrupted_at(whole, 8, "resumed")
    train(resumed)
    _assert_same_bits(_final(resumed), _final(whole))
    assert _metrics(resumed) == _metrics(whole)


def test_timesteps_drawn_by_loss_are_resumed_and_know_no_ranks(prior_job: Jobs) -> None:
    """24 samples a timestep of 2 fill the history of 10 within six updates: what follows is not uniform."""
    objective = PriorObjective(diffusion=replace(PRIOR_PROCESS, steps=2), embedding_dim=16)
    whole = prior_job("whole", objective=objective, loss_aware_steps=2)
    train(whole)
    resumed = _interrupted_at(whole, 8, "resumed")
    train(resumed)
    _assert_same_bits(_final(resumed), _final(whole))
    timesteps = LossAwareTimesteps(2)
    timesteps.load_state_dict(_final(whole).timesteps)
    assert timesteps.warm and abs(float(timesteps.probabilities()[0]) - 0.5) > 0.01
    # Dropout draws by rank, so the losses of two ranks are others; their number is not.
    pair = prior_job("pair", objective=objective, loss_aware_steps=2, ranks=2, steps=4)
    run_ranks([pair])
    assert int(_final(pair).timesteps["seen"].sum()) == 4 * pair.batch


def test_a_finished_training_is_not_touched_again(prior_job: Jobs) -> None:
    job = prior_job()
    train(job)
    before = {p: p.stat().st_mtime_ns for p in sorted((job.work / "checkpoints").rglob("*"))}
    train(job)
    assert {p: p.stat().st_mtime_ns for p in sorted((job.work / "checkpoints").rglob("*"))} == before


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no state", "half written"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(prior_job: Jobs, damage: str) -> None:
    whole = prior_job("whole")
    train(whole)
    newest = whole.work / "checkpoints/step_00000012"
    expected = copy.deepcopy(_final(whole))  # tensors of a loaded checkpoint are mapped from its files
    weights = newest / "weights.pt"
    if damage == "flip":
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        weights.unlink()
    elif damage == "no state":
        (newest / "state.json").unlink()
    else:  # killed while writing: the folder still has its temporary name
        newest.rename(newest.with_suffix(".tmp"))
    if damage == "half written":
        train(whole)
    else:
        with pytest.warns(UserWarning, match=r"checkpoint skipped: .*step_00000012"):
            train(whole)
    _assert_same_bits(_final(whole), expected)


def test_a_step_goes_on_in_another_runs_journal_with_the_whole_curve(prior_job: Jobs) -> None:
    whole = prior_job("whole")
    train(whole)
    resumed = _interrupted_at(whole, 8, "resumed")
    resumed.journal.unlink()
    train(resumed)
    assert _metrics(resumed) == _metrics(whole)


def test_checkpoints_cross_engines_zero_stages_and_rank_counts(prior_job: Jobs) -> None:
    """Two real processes; the same checkpoint goes on under every engine, and on one rank alone."""
    # No dropout (its masks belong to ranks), and an epsilon that damps the rounding of the sums over ranks.
    smooth = OptimiserSettings(lr=1e-3, eps=1e-3, weight_decay=0.01)
    network = replace(prior_job().network, dropout=0.0)  # type: ignore[type-var]
    whole = prior_job("whole", ranks=2, zero_stage=2, optimiser=smooth, network=network)
    run_ranks([whole])
    same = _interrupted_at(whole, 8, "same")
    others = [replace(_interrupted_at(whole, 8, f"zero_{s}"), zero_stage=s) for s in (None, 0, 1, 3)]
    run_ranks([same, *others])
    alone = replace(_interrupted_at(whole, 8, "alone"), ranks=1, zero_stage=None)
    run_ranks([alone])
    back = replace(_interrupted_at(others[-1], 12, "back"), ranks=1, zero_stage=None, steps=14)
    run_ranks([back])  # ZeRO-3's checkpoint on one plain rank

    _assert_same_bits(_final(same), _final(whole))
    for job in (*others, alone):
        for kind in TENSORS:
            got, expected = getattr(_final(job), kind), getattr(_final(whole), kind)
            for name in expected:
                torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-6)
    assert _final(back).cursor.step == 14


def _start(root: Path) -> subprocess.Popen[bytes]:
    log = (root / "driver.log").open("ab")
    command = [sys.executable, "-m", "tests.pipelines.train.driver", str(root)]
    return subprocess.Popen(command, stdout=log, stderr=log)


def _wait_for_checkpoint(root: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        done = sorted(root.glob("store/prior/*/_work/checkpoints/step_*[0-9]"))
        if done and int(done[-1].name[5:]) >= step:
            return
        assert process.poll() is None, (root / "driver.log").read_text()[-3000:]
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint of step {step}: {(root / 'driver.log').read_text()[-3000:]}")


def _ranks_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in " ".join(child.cmdline())]


def test_ray_train_with_deepspeed_survives_kill_9_of_driver_and_rank(tmp_path: Path) -> None:
    """Kill -9 of the driver, then of a rank: the weights are those of an undisturbed run without Ray."""
    root = tmp_path / "killed"
    root.mkdir()
    first = _start(root)
    _wait_for_checkpoint(root, 40, first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    second = _start(root)
    _wait_for_checkpoint(root, 200, second)
    ranks = _ranks_of(second)
    assert len(ranks) == driver.CONFIG.ranks
    ranks[1].kill()
    assert second.wait(timeout=300) == 0, (root / "driver.log").read_text()[-3000:]
    assert "a rank was lost" in (root / "driver.log").read_text()
    (artifact,) = [a for a in Store(root).artifacts() if a.kind == "prior"]

    expected = _undisturbed(tmp_path / "undisturbed", artifact)
    for name, kind in (("model", "weights"), ("ema", "ema")):
        got = load_file(artifact.path / f"{name}.safetensors")
        reference = getattr(expected, kind)
        assert all(torch.equal(got[parameter], reference[parameter]) for parameter in reference), name
    steps = [e["step"] for e in Journal(root / "journal.jsonl").events() if "loss" in e.get("values", {})]
    assert steps == list(range(20, 401, 20))


def _undisturbed(work: Path, artifact: Artifact) -> State:
    """The same training without Ray and without a kill."""
    from infra.store import Draft
    from pipelines.step import Context
    from pipelines.train.prior_steps import TrainPrior

    given = driver.inputs(work)
    step = TrainPrior()
    draft = Draft(path=work / "draft", kind="prior", address=artifact.address)
    context = Context(
        config=driver.CONFIG,
        resources=driver.RESOURCES,
        inputs=given,
        draft=draft,
        journal=Journal(work / "journal.jsonl"),
        progress=None,  # type: ignore[arg-type]
    )
    step.index(context)
    job = step.job(context)
    run_ranks([job])
    return _final(job)
