"""A scorer whose packages cannot live in our environment, run by an actor in an environment of its own.

Imported on both sides: nothing at module level that the other environment lacks.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from filters.scorer import Samples, Scorer

# One thread, as everywhere; Keras 2 for files that were saved with it.
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_USE_LEGACY_KERAS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


@runtime_checkable
class RunsApart(Protocol):
    """A scorer that only scores in another environment: the name of its lock in `infra/environments`."""

    environment: str


class Apart:
    """Stands for such a scorer here.

    Its actor lives on the same machine, ends with the process that made it, and claims no CPU, because
    whoever asks it waits meanwhile.
    """

    def __init__(self, scorer: Scorer, environment: str) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from infra.environment import environment_python

        self.name, self.version, self.needs, self.specs = (
            scorer.name,
            scorer.version,
            scorer.needs,
            scorer.specs,
        )
        self._identity = scorer.identity()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        own: Any = ray.remote(num_cpus=0, max_restarts=1, max_task_retries=1)(_Inside)
        python = str(environment_python(environment))
        options = {"py_executable": python, "env_vars": VARIABLES}
        self._actor = own.options(scheduling_strategy=here, runtime_env=options).remote(scorer)

    def identity(self) -> dict[str, Any]:
        return self._identity

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        import ray

        scores: dict[str, np.ndarray] = ray.get(self._actor.score.remote(samples))
        return scores


class _Inside:
    """The scorer, on the other side."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        return self._scorer.score(samples)
