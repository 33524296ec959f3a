"""Running one function per shard on Ray: bounded in flight, retried for lost workers only, nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from infra.ray_session import ensure_ray

T = TypeVar("T")
R = TypeVar("R")


def for_each(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    in_flight: int,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    retries: int = 3,
) -> Iterator[R]:
    """Yield `function(item)` for every item as results come, at most `in_flight` submitted at a time.

    Ray runs a task again (at most `retries` times) when its worker or node died; an exception of the
    function itself is never retried and is raised here, after which no further item is submitted.
    Memory does not grow with the number of items.
    """
    import ray

    ensure_ray()
    remote: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=retries)(function)
    pending: list[Any] = []
    queue = iter(items)
    exhausted = False
    try:
        while pending or not exhausted:
            while not exhausted and len(pending) < in_flight:
                try:
                    pending.append(remote.remote(next(queue)))
                except StopIteration:
                    exhausted = True
            if pending:
                ready, pending = ray.wait(pending, num_returns=1)
                yield ray.get(ready[0])
    finally:
        for reference in pending:
            ray.cancel(reference)
