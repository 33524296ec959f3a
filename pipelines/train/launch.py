"""Starting the ranks of a job through Ray Train, and starting them again when one is lost."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from infra.journal_tail import JournalTail
from infra.progress import Progress
from infra.ray_session import ensure_ray

if TYPE_CHECKING:
    from pipelines.train.job import TrainJob

_LEAN_RAY_TRAIN = {
    # Actors of their own for what this training does not use, and 2 s pauses between looks at the ranks.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Ranks read and write by absolute paths: no working folder of their own.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Each starts an actor that imports Ray Data (4 s): one for datasets, of which there are none, one for
placement groups that outlive their controller, which a cluster's job clean-up removes as well."""

_PEER_GONE = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")


class LostPeerError(RuntimeError):
    """A rank's collective failed because another rank went away."""


class TrainingFailedError(RuntimeError):
    """A rank raised, or ranks were lost more often than allowed."""


def fit(job: TrainJob, *, device: str, cpus_per_rank: float, max_lost: int, progress: Progress) -> None:
    """Run the job to its last step; returns when its last checkpoint is on disk.

    Ranks that die (killed, out of memory, node gone) are started again, at most `max_lost` times, and go on
    from the newest valid checkpoint.  What a rank raises itself is never retried: raises
    `TrainingFailedError`.
    """
    lost = 0
    while (done := finished_steps(job)) < job.steps:
        progress.start(job.steps, unit="steps", done=done)
        if (reason := _fit_once(job, device, cpus_per_rank, progress)) is None:
            if finished_steps(job) < job.steps:
                raise TrainingFailedError(f"the ranks ended before step {job.steps}; see {job.work}")
            return
        lost += 1
        if lost > max_lost:
            raise TrainingFailedError(
                f"ranks were lost {lost} times, last: {reason}; the checkpoints are kept in {job.work}"
            )
        progress.say(f"{progress.name}: a rank was lost ({reason}); going on from the last checkpoint")


def finished_steps(job: TrainJob) -> int:
    """Updates behind the newest valid checkpoint; 0 without one."""
    from pipelines.train.checkpoint import Checkpoints

    newest = Checkpoints(job.work).newest_valid()
    return 0 if newest is None else int(newest.name.rpartition("_")[2])


def _fit_once(job: TrainJob, device: str, cpus_per_rank: float, progress: Progress) -> str | None:
    """One worker group from start to end: None when it finished, the reason when ranks were lost."""
    from ray.train import WorkerGroupError

    trainer = _trainer(job, device, cpus_per_rank)
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            outcome.append(error)

    # In a thread, so that this one reports progress, and so that Ray leaves the interrupt handler alone.
    thread = threading.Thread(target=run, name="ray-train", daemon=True)
    thread.start()
    _report(job, progress, thread)
    if not outcome:
        return None
    error = outcome[0]
    if isinstance(error, WorkerGroupError):
        reason = _lost_rank(error.worker_failures)
        if reason is not None:
            return reason
        causes = {rank: _cause(failure) for rank, failure in error.worker_failures.items()}
        rank, cause = min(causes.items(), key=lambda item: isinstance(item[1], LostPeerError))
        raise TrainingFailedError(f"rank {rank}: {type(cause).__name__}: {cause}") from error
    raise error


def _trainer(job: TrainJob, device: str, cpus_per_rank: float) -> Any:
    for name, value in _LEAN_RAY_TRAIN.items():
        os.environ.setdefault(name, value)
    ensure_ray()
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    class LeanTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [c for c in callbacks if type(c).__name__ not in _UNUSED_CALLBACKS]

    return LeanTrainer(
        run_rank,
        train_loop_config={"job": job, "device": device},
        torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.ranks, use_gpu=device == "cuda", resources_per_worker={"CPU": cpus_per_rank}
        ),
        # A name of its own for every start: Ray Train would otherwise take up what it remembers of the last.
        run_config=RunConfig(storage_path=str(job.work / "ray"), name=f"start_{time.time_ns()}"),
    )


def run_rank(config: dict[str, Any]) -> None:
    """What Ray Train calls on each rank."""
    import ray.train
    import ray.train.torch
    import torch.distributed as dist

    from pipelines.train.loop import train

    context = ray.train.get_context()
    device = ray.train.torch.get_device() if config["device"] == "cuda" else "cpu"
    try:
        train(config["job"], rank=context.get_world_rank(), ranks=context.get_world_size(), device=device)
        # gloo sometimes aborts a process that leaves while others still talk.
        dist.barrier()
    except RuntimeError as error:
        if any(sign in str(error) for sign in _PEER_GONE):
            raise LostPeerError(str(error)) from error
        raise


def _lost_rank(failures: dict[int, Exception]) -> str | None:
    """Why ranks were lost, where that is all that happened; None where a rank raised something itself."""
    from ray.exceptions import RayActorError

    reasons = []
    for rank, failure in sorted(failures.items()):
        cause = _cause(failure)
        if not isinstance(cause, LostPeerError | RayActorError):
            return None
        what = "died" if isinstance(cause, RayActorError) else "lost its peer"
        reasons.append(f"rank {rank} {what}")
    return ", ".join(reasons)


def _cause(failure: BaseException) -> BaseException:
    """What is inside Ray Train's wrappers."""
    for name in ("_base_exc", "health_check_failure", "cause"):
        inner = getattr(failure, name, None)
        if isinstance(inner, BaseException):
            return _cause(inner)
    return failure


def _report(job: TrainJob, progress: Progress, thread: threading.Thread) -> None:
    """Show steps as the ranks write them to the journal, until the thread ends."""
    tail = JournalTail(job.journal)
    while True:
        alive = thread.is_alive()
        for event in tail.new_events():
            values = event.get("values", {})
            if event["type"] == "metrics" and "loss" in values and event["step"] > progress.done:
                note = f"loss {values['loss']:.4f}, {values['samples_per_s']:.0f} samples/s"
                progress.advance(event["step"] - progress.done, note)
        if not alive:
            return
        thread.join(0.5)
