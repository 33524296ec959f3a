"""Joining a Ray cluster, or starting a small local one."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Any

LOCAL_OBJECT_STORE_BYTES = 400 * 2**20


def ensure_ray(*, object_store_bytes: int = LOCAL_OBJECT_STORE_BYTES) -> None:
    """Connect to the cluster at `RAY_ADDRESS`, or start a local instance on loopback; idempotent.

    The local instance has no dashboard, a small object store (everything large travels as paths) and a
    token of its own: Ray refuses a driver without one, and loopback is shared with every local user.
    """
    import ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    # Workers must find the rooms also when the driver runs from a checkout on the same machine.
    environment = {"env_vars": {"PYTHONPATH": _python_path(), "OMP_NUM_THREADS": "1"}}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], runtime_env=environment, **quiet)
        return
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        object_store_memory=object_store_bytes,
        _node_ip_address="127.0.0.1",
        runtime_env=environment,
        **quiet,
    )


def stop_ray() -> None:
    """Leave the cluster (and end the local instance); harmless when there is none."""
    import sys

    if "ray" in sys.modules:
        import ray

        if ray.is_initialized():
            ray.shutdown()


def _python_path() -> str:
    here = str(Path(__file__).resolve().parent.parent)
    existing = os.environ.get("PYTHONPATH", "")
    return here if not existing else f"{here}{os.pathsep}{existing}"
