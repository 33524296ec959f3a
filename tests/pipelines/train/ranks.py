"""Real ranks without Ray: processes joined by gloo, as torchrun would start them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp

from pipelines.train.job import TrainJob
from pipelines.train.loop import train


def run_ranks(jobs: list[TrainJob]) -> None:
    """Run jobs of equal rank counts one after another in one group of processes."""
    ranks = jobs[0].ranks
    if ranks == 1 and all(job.zero_stage is None for job in jobs):
        for job in jobs:
            train(job)
        return
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(jobs, ranks, Path(folder) / "rendezvous"), nprocs=ranks)


def _rank(rank: int, jobs: list[TrainJob], ranks: int, rendezvous: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=ranks)
    for job in jobs:
        train(job, rank=rank, ranks=ranks)
    # gloo sometimes aborts a process that exits while others still talk.
    dist.barrier()
    dist.destroy_process_group()
