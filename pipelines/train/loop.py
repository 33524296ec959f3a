"""The training loop of one rank: `train(job, rank=..., ranks=...)`, under Ray Train, torchrun or alone.

Needs torch, numpy, pyarrow and jaxtyping (Pillow where a stage reads images); DeepSpeed when the job names
a ZeRO stage; never Ray.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.journal import Journal
from models.diffusion.timesteps import LossAwareTimesteps
from pipelines.train.checkpoint import Checkpoints, Cursor, ForeignCheckpointError, State, load
from pipelines.train.draws import Draws, Purpose, derived_seed
from pipelines.train.ema import Ema
from pipelines.train.engine import Engine, TorchEngine
from pipelines.train.initial import initial_weights
from pipelines.train.job import TrainJob
from pipelines.train.stream import Batch, Stream

LOCK_WAIT_S = 120.0


class DivergedError(RuntimeError):
    """A loss that is no finite number."""


def train(job: TrainJob, *, rank: int = 0, ranks: int = 1, device: torch.device | str = "cpu") -> None:
    """Train from the newest valid checkpoint, or from the start, to the last step.

    With several ranks a torch process group must be initialised.  Leaves a checkpoint of the last step;
    rank 0 writes metrics to the job's journal.
    """
    if ranks != job.ranks:
        raise ValueError(f"the job is cut for {job.ranks} ranks, {ranks} were started")
    torch.set_num_threads(job.threads)
    with _sole_writer(job.work, rank):
        _Training(job, rank, torch.device(device)).run()


class _Training:
    """State of one rank between the steps."""

    def __init__(self, job: TrainJob, rank: int, device: torch.device) -> None:
        self.job, self.rank, self.device = job, rank, device
        self.checkpoints = Checkpoints(job.work)
        self.journal = Journal(job.journal)
        self.train_stream = self._open("train")
        self.validation_stream = self._open("validation") if job.validate_every else None
        network = build_network(job, device)
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        state = self._newest_state()
        self.start = 0
        if state is not None:
            network.load_state_dict({**dict(network.named_buffers()), **state.weights})
            self.start = state.cursor.step
        self.ema = Ema(shapes, decay=job.ema_decay, rank=rank, ranks=job.ranks)
        self.ema.reset(network.named_parameters() if state is None else state.ema.items())
        self.engine = make_engine(job, network)
        if state is not None:
            self.engine.load_moments(state.exp_avg, state.exp_avg_sq, state.cursor.step)
        self.timesteps = None if job.loss_aware_steps is None else LossAwareTimesteps(job.loss_aware_steps)
        if self.timesteps is not None and state is not None:
            self.timesteps.load_state_dict(state.timesteps)
        self.window = torch.zeros(2, dtype=torch.float64, device=device)
        self.lr = state.cursor.lr if state is not None else 0.0
        self.history = state.history if state is not None else []

    def run(self) -> None:
        job = self.job
        if self.rank == 0:
            _restore_journal(self.journal, self.history, self.start if self.start else -1)
        if self.start == 0:
            self._validate(0)
        began = time.monotonic()
        slices = self.train_stream.slices(
            self.start, job.steps, batch=job.batch, rank=self.rank, ranks=job.ranks, prefetch=job.prefetch
        )
        for step, batch in enumerate(slices, start=self.start):
            norm = self._update(step, batch)
            done = step + 1
            last = done == job.steps
            if done % job.log_every == 0 or last:
                self._log(done, norm, (done - self.start) * job.batch / (time.monotonic() - began))
            if job.validate_every and (done % job.validate_every == 0 or last):
                self._validate(done)
            if done % _checkpoint_interval(job) == 0 or last:
                self._save(done)

    def _update(self, step: int, batch: Batch) -> float | Tensor:
        job, network = self.job, self.engine.network()
        network.train()
        # Dropout draws from the global generator: its state is a function of (seed, step, rank).
        torch.manual_seed(derived_seed(job.seed, Purpose.RANK, step, self.rank))
        seen: list[Tensor] = []
        for part in split_batch(batch, job.micro_batches):
            draws = self._draws(part, Purpose.TRAINING)
            losses = self.job.objective.losses(network, part, draws)
            if self.timesteps is not None:
                assert draws.drawn_timesteps is not None
                seen.append(torch.stack([draws.drawn_timesteps.double(), losses.detach().double()]))
                losses = losses * self.timesteps.importance(draws.drawn_timesteps)
            weighted = losses * torch.from_numpy(part.weight).to(self.device)
            self.engine.backward(weighted.mean())
            self.window += torch.stack([weighted.detach().sum(), weighted.new_tensor(len(part))])
        if self.timesteps is not None:
            t, raw = _gather_in_order(torch.cat(seen, dim=1), job.ranks).cpu()
            self.timesteps.record(t.long(), raw)
        self.lr = job.optimiser.lr_at(step, job.steps)
        norm = self.engine.step(self.lr)
        self.ema.update(self.engine.parameters(), step)
        return norm

    def _draws(self, batch: Batch, purpose: Purpose) -> Draws:
        """Validation draws uniform timesteps, always: what is compared must not move."""
        by_loss = self.timesteps if purpose == Purpose.TRAINING else None
        probabilities = None if by_loss is None else by_loss.probabilities()
        return Draws(self.job.seed, purpose, batch.positions, self.device, probabilities)

    def _log(self, step: int, grad_norm: float | Tensor, samples_per_s: float) -> None:
        window = self.window.clone()
        if dist.is_initialized():
            dist.all_reduce(window)
        self.window.zero_()
        loss, norm = float(window[0] / window[1]), float(grad_norm)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise DivergedError(
                f"step {step}: loss {loss}, gradient norm {norm}; lower the learning rate, lengthen the "
                f"warm-up or clip the gradients"
            )
        if self.rank == 0:
            self._record(step, {"loss": loss, "grad_norm": norm, "lr": self.lr}, samples_per_s=samples_per_s)

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        """Mean held-out loss and its standard error, with the same noise every time; weights, not
        averages."""
        job, stream = self.job, self.validation_stream
        if stream is None:
            return
        network = self.engine.network()
        network.eval()
        count = min(job.validation_samples, len(stream))
        size = job.micro_batch or job.local_batch
        spans = [(first, min(first + size, count)) for first in range(0, count, size)]
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for number in range(self.rank, _round_up(len(spans), job.ranks), job.ranks):
            # All ranks go through the network equally often, as ZeRO-3 gathers weights on the way.
            batch = stream.read_in_key_order(*spans[number % len(spans)])
            draws = self._draws(batch, Purpose.VALIDATION)
            losses = job.objective.losses(network, batch, draws).double()
            if number < len(spans):
                sums += torch.stack([losses.sum(), losses.square().sum(), losses.new_tensor(len(losses))])
        if dist.is_initialized():
            dist.all_reduce(sums)
        if self.rank == 0:
            total, squares, n = sums.tolist()
            variance = max(squares / n - (total / n) ** 2, 0.0) * n / max(n - 1, 1)
            values = {"validation_loss": total / n, "validation_loss_se": math.sqrt(variance / n)}
            self._record(step, values)

    def _record(self, step: int, values: dict[str, float], **measured: float) -> None:
        """Keep metrics; `measured` ones differ from run to run and go to the journal only."""
        self.history.append({"step": step, **values})
        self.journal.metrics(values | measured, step=step)

    def _save(self, step: int) -> None:
        ema = self.ema.gather(self.device)
        weights: dict[str, Tensor] = {}
        exp_avg: dict[str, Tensor] = {}
        exp_avg_sq: dict[str, Tensor] = {}
        for name, parameter in self.engine.parameters():
            if self.rank == 0:
                weights[name] = parameter.cpu().clone()
        for name, first, second in self.engine.moments():
            if self.rank == 0:
                exp_avg[name], exp_avg_sq[name] = first.cpu().clone(), second.cpu().clone()
        if self.rank == 0:
            cursor = self._cursor(step)
            self.checkpoints.save(
                State(
                    cursor=cursor,
                    history=self.history,
                    weights=weights,
                    ema=ema,
                    exp_avg=exp_avg,
                    exp_avg_sq=exp_avg_sq,
                    timesteps={} if self.timesteps is None else self.timesteps.state_dict(),
                )
            )

    def _cursor(self, step: int) -> Cursor:
        job = self.job
        epoch, position = self.train_stream.cursor(step * job.batch)
        return Cursor(
            step=step,
            epoch=epoch,
            position=position,
            seed=job.seed,
            batch=job.batch,
            ranks=job.ranks,
            zero_stage=job.zero_stage,
            lr=self.lr,
            tracking_id=job.tracking_id,
        )

    def _newest_state(self) -> State | None:
        """The state rank 0 chose: ranks that looked for themselves might choose differently."""
        chosen: list[str | None] = [None]
        if self.rank == 0 and (path := self.checkpoints.newest_valid()) is not None:
            chosen = [str(path)]
        if dist.is_initialized():
            dist.broadcast_object_list(chosen, src=0, device=self.device)
        if chosen[0] is None:
            return None
        state = load(Path(chosen[0]))
        expected = (self.job.seed, self.job.batch, self.job.tracking_id)
        got = (state.cursor.seed, state.cursor.batch, state.cursor.tracking_id)
        if got != expected:
            raise ForeignCheckpointError(
                f"{chosen[0]} is of another training: (seed, batch, tracking id) is {got}, "
                f"expected {expected}"
            )
        return state

    def _open(self, split: str) -> Stream:
        job = self.job
        return Stream(
            job.index,
            split=split,
            seed=job.seed,
            view=job.view,
            cache_bytes=job.cache_bytes if split == "train" else job.cache_bytes // 4,
        )


def build_network(job: TrainJob, device: torch.device) -> nn.Module:
    """The network with its initial weights, alike on every rank and device: those of `job.initial`, or what
    the seed says."""
    torch.manual_seed(job.seed)
    network: nn.Module = job.network.build()
    buffers = torch.load(job.buffers, weights_only=True) if job.buffers is not None else {}
    if different := sorted({name for name, _ in network.named_buffers()} ^ buffers.keys()):
        raise TypeError(
            f"{type(network).__name__}: buffers are not trained and not checkpointed; the job must bring "
            f"exactly those the network has, not so for {different[:3]}"
        )
    network.load_state_dict(buffers, strict=False)
    if job.initial is not None:
        network.load_state_dict({**buffers, **initial_weights(job.network, job.initial)})
    if job.precision == "bf16":
        # Inside the forward pass: DeepSpeed switches an autocast around it off.
        network.forward = torch.autocast(device.type, torch.bfloat16)(network.forward)
    return network.to(device)


def make_engine(job: TrainJob, network: nn.Module) -> Engine:
    """DeepSpeed where the job names a ZeRO stage, else plain torch."""
    o = job.optimiser
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=o.weight_decay
    )
    if job.zero_stage is None:
        return TorchEngine(network, optimiser, clip_norm=o.clip_norm, micro_batches=job.micro_batches)
    from infra.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(
        network,
        optimiser,
        zero_stage=job.zero_stage,
        micro_batch=job.local_batch // job.micro_batches,
        micro_batches=job.micro_batches,
        clip_norm=o.clip_norm,
    )


def split_batch(batch: Batch, parts: int) -> Iterator[Batch]:
    """Equal parts of a batch, in order."""
    size = len(batch) // parts
    for first in range(0, len(batch), size):
        yield batch.take(slice(first, first + size))


def _gather_in_order(local: Tensor, ranks: int) -> Tensor:
    """Columns of all ranks, in the order of the global batch."""
    if ranks == 1:
        return local
    parts = [torch.empty_like(local) for _ in range(ranks)]
    dist.all_gather(parts, local)
    return torch.cat(parts, dim=1)


def _restore_journal(journal: Journal, history: list[dict[str, float]], step: int) -> None:
    """Forget what came after the checkpoint, and write what this journal never held: a step may go on in a
    run other than the one that began it."""
    journal.path.parent.mkdir(parents=True, exist_ok=True)
    journal.truncate_after(step)
    held = {(e["step"], name) for e in journal.events() if e["type"] == "metrics" for name in e["values"]}
    for entry in history:
        values = {name: value for name, value in entry.items() if name != "step"}
        if not held.issuperset((entry["step"], name) for name in values):
            journal.metrics(values, step=int(entry["step"]))


def _checkpoint_interval(job: TrainJob) -> int:
    """Checkpoints fall on logged steps: the mean of a half-finished window would be lost with the process."""
    return _round_up(job.checkpoint_every, job.log_every)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@contextmanager
def _sole_writer(work: Path, rank: int) -> Iterator[None]:
    """Rank 0 waits for a former rank 0 to be gone: when a driver is killed its ranks live on for seconds, and
    must not write between the lines of their successors."""
    if rank != 0:
        yield
        return
    work.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(work / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{work}: another training has written here for {LOCK_WAIT_S:.0f} s; end it first"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
