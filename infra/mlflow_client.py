"""Sending to MLflow so that nothing arrives twice, whatever died in between.

Each tracked run has a local *mark*: what the server is known to hold.  Everything is compared with the mark
before it is sent, so sending the same thing again costs nothing and does nothing.  A mark that was being
changed when its writer died says so (`in_flight`), and is then corrected from what the server holds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
_NOT_IN_KEYS = re.compile(r"[^\w\-. /:]")


def tracking_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or the sqlite database under the root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database_path(root).absolute()}"


def database_path(root: Path) -> Path:
    return root / "mlflow" / "mlflow.db"


def without_password(uri: str) -> str:
    """The address as it may be printed."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}"))


@dataclass(kw_only=True)
class Mark:
    """What the tracking server is known to hold of one run.

    `metrics` maps a metric to the last step sent: a metric has one value a step, and steps only grow.
    """

    run_id: str = ""
    status: str = ""
    metrics: dict[str, int] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    params: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    model_versions: dict[str, str] = field(default_factory=dict)
    in_flight: bool = False

    @staticmethod
    def load(path: Path) -> Mark:
        return Mark(**json.loads(path.read_bytes())) if path.is_file() else Mark()

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricPoint:
    """One value of one metric.  Its time is part of its identity on the server: it must not change."""

    key: str
    value: float
    step: int
    time_ms: int


class MlflowServer:
    """A connection to one experiment of a tracking server.  Every method may raise what MLflow raises."""

    def __init__(self, uri: str, experiment: str, artifacts: Path | None) -> None:
        """`artifacts` is the folder for the files of a database that is used without a server."""
        from mlflow import MlflowClient

        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(uri, uri)
        self.uri = uri
        self._seen: set[str] = set()
        self.experiment_id = self._experiment(experiment, artifacts if uri.startswith("sqlite:") else None)

    def run(
        self,
        mark_path: Path,
        *,
        identity: Mapping[str, str],
        name: str,
        start_ms: int,
        parent: str | None = None,
    ) -> TrackedRun:
        """The run with these identity tags: the marked one, else the oldest on the server, else a new one."""
        mark = Mark.load(mark_path)
        if mark.run_id and mark.run_id not in self._seen and not self._is_there(mark.run_id):
            mark = Mark()  # deleted by someone: what belongs into it is sent again, to a new run
        self._seen.add(mark.run_id)
        if mark.in_flight or not mark.run_id:
            mark.run_id = (
                mark.run_id or self._find(identity) or self._create(identity, name, start_ms, parent)
            )
            self._correct(mark)
            mark.in_flight = False
            mark.save(mark_path)
            self._seen.add(mark.run_id)
        return TrackedRun(self, mark, mark_path)

    def _is_there(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(run_id).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _experiment(self, name: str, artifacts: Path | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = artifacts.absolute().as_uri() if artifacts else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def _find(self, identity: Mapping[str, str]) -> str | None:
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
        found = self.client.search_runs(
            [self.experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"]
        )
        return str(found[0].info.run_id) if found else None

    def _create(self, identity: Mapping[str, str], name: str, start_ms: int, parent: str | None) -> str:
        tags = dict(identity)
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = self.client.create_run(self.experiment_id, start_time=start_ms, tags=tags, run_name=name)
        return str(run.info.run_id)

    def _correct(self, mark: Mark) -> None:
        """Make the mark true again after a crash between sending and marking."""
        run = self.client.get_run(mark.run_id)
        mark.status = str(run.info.status)
        mark.params = sorted(run.data.params)
        mark.tags = dict(run.data.tags)
        mark.artifacts = []  # sending a file again replaces it
        mark.figures = dict(run.data.metrics)
        for key in run.data.metrics:
            mark.metrics[key] = max(m.step for m in self.client.get_metric_history(mark.run_id, key))


class TrackedRun:
    """One MLflow run; every call sends only what the server does not hold yet."""

    def __init__(self, server: MlflowServer, mark: Mark, mark_path: Path) -> None:
        self._server = server
        self._client = server.client
        self._path = mark_path
        self.mark = mark

    @property
    def run_id(self) -> str:
        return self.mark.run_id

    def metrics(self, points: Iterable[MetricPoint]) -> None:
        """Send the points that lie beyond the mark, a thousand a request."""
        from mlflow.entities import Metric

        last = dict(self.mark.metrics)
        new = []
        for point in points:
            key = _key(point.key)
            if point.step > last.get(key, -1):
                last[key] = point.step
                new.append(Metric(key, point.value, point.time_ms, point.step))
        for start in range(0, len(new), METRICS_A_BATCH):
            batch = new[start : start + METRICS_A_BATCH]
            self._begin()
            self._client.log_batch(self.run_id, metrics=batch)
            self.mark.metrics |= {metric.key: metric.step for metric in batch}
            self._end()

    def figures(self, values: Mapping[str, float], time_ms: int) -> None:
        """Send single figures; one that changed is sent again as the metric's next step."""
        changed = {_key(k): float(v) for k, v in values.items() if self.mark.figures.get(_key(k)) != float(v)}
        if not changed:
            return
        steps = {key: self.mark.metrics.get(key, -1) + 1 for key in changed}
        self.metrics(MetricPoint(key=k, value=v, step=steps[k], time_ms=time_ms) for k, v in changed.items())
        self.mark.figures |= changed
        self.mark.save(self._path)

    def params(self, values: Mapping[str, Any]) -> None:
        """Send parameters; MLflow lets none be changed, so the first value of each stands."""
        from mlflow.entities import Param

        sent = set(self.mark.params)
        new = [Param(_key(k), str(v)[:PARAM_LENGTH]) for k, v in values.items() if _key(k) not in sent]
        for start in range(0, len(new), PARAMS_A_BATCH):
            batch = new[start : start + PARAMS_A_BATCH]
            self._begin()
            self._client.log_batch(self.run_id, params=batch)
            self.mark.params = sorted({*self.mark.params, *(param.key for param in batch)})
            self._end()

    def tags(self, values: Mapping[str, str]) -> None:
        """Set the tags that differ from what the server holds."""
        from mlflow.entities import RunTag

        new = {_key(k): v[:TAG_LENGTH] for k, v in values.items()}
        new = {k: v for k, v in new.items() if self.mark.tags.get(k) != v}
        if new:
            self._begin()
            self._client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in new.items()])
            self.mark.tags |= new
            self._end()

    def artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file unless this version of it is there.  A file that is gone is left out."""
        try:
            stamp = path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        name = f"{folder}/{path.name}@{stamp}"
        if name not in self.mark.artifacts:
            self._begin()
            self._client.log_artifact(self.run_id, str(path), folder or None)
            self.mark.artifacts.append(name)
            self._end()

    def status(self, status: str, end_ms: int) -> None:
        """Set RUNNING, FINISHED, FAILED or KILLED."""
        if self.mark.status == status:
            return
        self._begin()
        if status == "RUNNING":
            self._client.update_run(self.run_id, status=status)
        else:
            self._client.set_terminated(self.run_id, status, end_ms or None)
        self.mark.status = status
        self._end()

    def register(self, artifact_dir: Path, name: str, content: str) -> None:
        """Register the run's model artifact under `name`, once for its content."""
        from infra.model_registry import register_model

        if name not in self.mark.model_versions:
            self.mark.model_versions[name] = register_model(
                artifact_dir, tracking_uri=self._server.uri, run_id=self.run_id, name=name, content=content
            )
            self.mark.save(self._path)

    def _begin(self) -> None:
        self.mark.in_flight = True
        self.mark.save(self._path)

    def _end(self) -> None:
        self.mark.in_flight = False
        self.mark.save(self._path)


def _key(name: str) -> str:
    """The name with what MLflow refuses replaced, at most 250 characters."""
    return _NOT_IN_KEYS.sub("_", name)[:250]
