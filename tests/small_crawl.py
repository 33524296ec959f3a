"""A small site and its acquisition: the real steps, 60 rows, every kind of trouble.

Run as a module it acquires in a process of its own, for tests that kill it: `python -m tests.small_crawl ROOT
PORT`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.journal import Journal
from infra.progress import Progress
from infra.store import Artifact, Store, finish
from pipelines.acquire.config import AcquireConfig, AcquireResources, Columns, FetchConfig, ImageConfig
from pipelines.acquire.step import Acquire
from pipelines.demo.site import HOST, OpenMojiSite, OpenMojiSiteConfig
from pipelines.step import Context, Resources, Step, StepConfig, input_contents, step_address, step_config

SHARD_SIZE = 6


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def run_step(
    root: Path,
    step: Step[Any, Any],
    config: StepConfig,
    inputs: Mapping[str, Artifact],
    *,
    resources: Resources | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Run a step as the runner does, memoised."""
    store = Store(root)
    address = step_address(step, config, input_contents(step, inputs))
    found = store.find(step.produces, address)
    if found is not None:
        return found
    context: Context[Any, Any] = Context(
        config=config,
        resources=resources or step.Resources(),
        inputs=inputs,
        draft=store.draft(step.produces, address),
        journal=Journal(root / f"{step.kind}.jsonl"),
        progress=progress or Progress(step.kind, quiet=True),
    )
    summary = step.run(context)
    record = {"kind": step.kind, "version": step.version, "config": step_config(config)}
    record["identity"] = step.identity(config)
    return finish(context.draft, step=record, inputs=inputs, summary=summary, seconds=0.0)


def site_config(port: int) -> OpenMojiSiteConfig:
    return OpenMojiSiteConfig(
        images=40, large=2, planted=6, skin_tones=4, trouble=0.35, port=port, seed=1, shard_size=16
    )


def acquire_config(port: int, **image: Any) -> AcquireConfig:
    """Short patience, so that the hanging row costs half a second."""
    settings: dict[str, Any] = {"size": 128, "mode": "keep_ratio_largest", "only_if_bigger": True}
    return AcquireConfig(
        urls="site",
        serve="site",
        columns=Columns(extra=("licence",)),
        shard_size=SHARD_SIZE,
        fetch=FetchConfig(
            total_timeout_s=5, idle_timeout_s=0.5, retries=0, allow_private=(f"{HOST}:{port}",)
        ),
        image=ImageConfig(**(settings | {"min_side": 16, "max_pixels": 4_000_000} | image)),
    )


def make_site(root: Path, port: int) -> Artifact:
    return run_step(root, OpenMojiSite(), site_config(port), {})


def acquire(
    root: Path,
    site: Artifact,
    config: AcquireConfig,
    progress: Progress | None = None,
    *,
    delay_s: float = 0.0,
) -> Artifact:
    """`delay_s` between two requests lets a test meet the crawl half done; it enters no digest."""
    inputs = {"urls": site, "serve": site}
    resources = AcquireResources(shards_in_flight=2, cpus_per_shard=1, per_host_delay_s=delay_s)
    return run_step(root, Acquire(), config, inputs, resources=resources, progress=progress)


def files_of(artifact: Artifact) -> dict[str, bytes]:
    """Every file of an artifact but those with times in them."""
    return {
        path.relative_to(artifact.path).as_posix(): path.read_bytes()
        for path in sorted(artifact.path.rglob("*"))
        if path.is_file() and path.name not in ("host.json", "manifest.json")
    }


if __name__ == "__main__":
    root, port = Path(sys.argv[1]), int(sys.argv[2])
    acquire(root, make_site(root, port), acquire_config(port), delay_s=0.05)
