"""The flow of chunks on Ray: decoding tasks feed annotators, annotators feed a writer per shard.

Everything large moves between workers by reference; the driver sees row accounts alone.  Back-pressure is a
number of slots per annotator: a chunk is decoded only when a slot for it is free, so memory is bounded by
annotators x (1 + prefetch) x chunk, whatever the corpus and however slow the annotators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from infra.ray_session import ensure_ray
from infra.store import Draft, Rows, ShardRecord
from pipelines.annotate.annotator import Annotator
from pipelines.annotate.chunks import decode_chunk, index_shard
from pipelines.annotate.config import AnnotateConfig, AnnotateResources
from pipelines.annotate.writer import commit_shard

# Ray runs again what a lost worker was doing, this many times; errors of our own are never retried.
RETRIES = 3


class Annotators:
    """A pool of annotator actors with a fixed number of slots each."""

    def __init__(self, config: AnnotateConfig, resources: AnnotateResources) -> None:
        import ray

        ensure_ray()
        factory: Any = ray.remote(
            num_cpus=resources.cpus_per_actor,
            num_gpus=resources.gpus_per_actor,
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )(Annotator)
        self._actors = [factory.remote(config) for _ in range(_actor_count(resources))]
        self._slots = 1 + resources.prefetch
        self._busy: dict[Any, int] = {}

    def identity(self) -> dict[str, Any]:
        """The encoder's identity, from the first annotator; returns once its models are loaded."""
        import ray

        identity: dict[str, Any] = ray.get(self._actors[0].identity.remote())
        return identity

    def wait_for_slot(self) -> int:
        """The number of the annotator with most free slots, waiting until there is one."""
        import ray

        while True:
            ready, _ = (
                ray.wait(list(self._busy), num_returns=len(self._busy), timeout=0) if self._busy else ([], [])
            )
            for reference in ready:
                del self._busy[reference]
            load = [list(self._busy.values()).count(i) for i in range(len(self._actors))]
            if min(load) < self._slots:
                return load.index(min(load))
            ray.wait(list(self._busy), num_returns=1)

    def submit(self, actor: int, decoded: Any) -> Any:
        """Annotate a chunk given by reference; returns the result's reference."""
        reference = self._actors[actor].annotate.remote(decoded)
        self._busy[reference] = actor
        return reference

    def close(self) -> None:
        """End the actors; what they hold is freed at once."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


def annotate_shards(
    annotators: Annotators,
    corpus: Path,
    shards: Sequence[ShardRecord],
    draft: Draft,
    config: AnnotateConfig,
    resources: AnnotateResources,
) -> Iterator[Rows]:
    """Annotate and commit shards; yields row accounts as they are committed.

    The first error of any worker is raised as itself; shards committed before it stay committed.
    """
    import ray

    worker: Any = ray.remote(num_cpus=resources.cpus_per_decoder, max_retries=RETRIES)
    index, decode, commit = worker(index_shard), worker(decode_chunk), worker(commit_shard)
    committing: list[Any] = []
    for record in shards:
        entries = index.remote(corpus, record.name)
        chunks = []
        # An empty shard is one empty chunk: its files then have the columns and widths of all others.
        for number in range(max(1, -(-record.rows.kept // config.chunk))):
            slot = annotators.wait_for_slot()
            chunks.append(
                annotators.submit(slot, decode.remote(corpus, record.name, entries, number, config.chunk))
            )
            done, committing = (
                ray.wait(committing, num_returns=len(committing), timeout=0) if committing else ([], [])
            )
            yield from map(_result, done)
        committing.append(commit.remote(draft, record.name, *chunks))
    while committing:
        done, committing = ray.wait(committing, num_returns=1)
        yield from map(_result, done)


def _result(reference: Any) -> Rows:
    """A writer's row account, or the error that a decoder, an annotator or the writer met."""
    import ray

    try:
        rows: Rows = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        while isinstance(cause, ray.exceptions.RayTaskError):
            cause = cause.cause
        raise (cause or error) from error
    return rows


def _actor_count(resources: AnnotateResources) -> int:
    import ray

    if resources.actors is not None:
        return resources.actors
    kind = "GPU" if resources.gpus_per_actor else "CPU"
    return max(1, int(ray.cluster_resources().get(kind, 1)))
