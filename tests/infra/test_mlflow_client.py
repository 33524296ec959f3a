"""Against a real MLflow database: nothing twice, nothing lost, whatever died between sending and marking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.journal import Journal
from infra.journal_tail import JournalTail
from infra.mlflow_client import MetricPoint, MlflowServer, TrackedRun, tracking_uri, without_password


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> MlflowServer:
    folder = tmp_path_factory.mktemp("mlflow")
    return MlflowServer(f"sqlite:///{folder}/mlflow.db", "test", folder / "artifacts")


@pytest.fixture
def opened(server: MlflowServer, tmp_path: Path) -> Callable[[], TrackedRun]:
    """Opens the test's run, as a new process would: from the mark on disk."""
    identity = {"unclip.root": "r", "unclip.address": tmp_path.name}
    return lambda: server.run(tmp_path / "mark.json", identity=identity, name="step", start_ms=1000)


def points(first: int, last: int, time_ms: int = 5000) -> list[MetricPoint]:
    return [
        MetricPoint(key="loss", value=1 / (i + 1), step=i, time_ms=time_ms + i) for i in range(first, last)
    ]


def steps_of(server: MlflowServer, run_id: str) -> list[int]:
    return [m.step for m in server.client.get_metric_history(run_id, "loss")]


def test_sending_again_sends_nothing(server: MlflowServer, opened: Callable[[], TrackedRun]) -> None:
    opened().metrics(points(0, 2500))
    opened().metrics(points(0, 2600))
    assert steps_of(server, opened().run_id) == list(range(2600))


def test_a_resumed_training_that_measures_again_adds_no_second_value(
    server: MlflowServer, opened: Callable[[], TrackedRun]
) -> None:
    opened().metrics(points(0, 60))
    opened().metrics(points(50, 100, time_ms=90_000))
    assert steps_of(server, opened().run_id) == list(range(100))


class Dead(BaseException):
    """Stands for kill -9: nothing after it runs."""


@pytest.mark.parametrize("arrived", [True, False])
def test_death_between_sending_and_marking(
    server: MlflowServer,
    opened: Callable[[], TrackedRun],
    monkeypatch: pytest.MonkeyPatch,
    arrived: bool,
) -> None:
    opened().metrics(points(0, 10))
    send = server.client.log_batch

    def die(*arguments: Any, **named: Any) -> None:
        if arrived:
            send(*arguments, **named)
        raise Dead

    with monkeypatch.context() as patch:
        patch.setattr(server.client, "log_batch", die)
        for call in (
            lambda run: run.metrics(points(10, 20)),
            lambda run: run.params({"lr": 0.1}),
            lambda run: run.figures({"final": 0.5}, 1),
        ):
            with pytest.raises(Dead):
                call(opened())
    run = opened()
    # The killed training went on from its checkpoint and measured the same steps at another time.
    run.metrics(points(10, 30, time_ms=70_000))
    run.params({"lr": 0.2 if arrived else 0.1})
    run.figures({"final": 0.5}, 1)
    assert steps_of(server, run.run_id) == list(range(30))
    stored = server.client.get_run(run.run_id).data
    assert stored.params == {"lr": "0.1"}
    assert [m.value for m in server.client.get_metric_history(run.run_id, "final")] == [0.5]


def test_death_between_creating_and_marking_leaves_no_ghost(
    opened: Callable[[], TrackedRun], tmp_path: Path
) -> None:
    first = opened().run_id
    (tmp_path / "mark.json").unlink()
    assert opened().run_id == first


def test_a_run_deleted_by_someone_is_sent_anew(
    server: MlflowServer, opened: Callable[[], TrackedRun]
) -> None:
    first = opened()
    first.metrics(points(0, 5))
    server.client.delete_run(first.run_id)
    server._seen.clear()  # a new process
    second = opened()
    second.metrics(points(0, 5))
    assert second.run_id != first.run_id and steps_of(server, second.run_id) == list(range(5))


def test_status_figures_names_and_files(
    server: MlflowServer, opened: Callable[[], TrackedRun], tmp_path: Path
) -> None:
    run = opened()
    run.figures({"recall@5 (test)": 0.25}, 1)
    run.figures({"recall@5 (test)": 0.25}, 1)
    run.figures({"recall@5 (test)": 0.75}, 2)
    run.params({"long": "x" * 10_000})
    picture = tmp_path / "grid.txt"
    picture.write_text("a")
    run.artifact(picture, "grids")
    run.artifact(tmp_path / "gone.png")
    run.status("FAILED", 2000)
    run.status("RUNNING", 0)
    run.status("FINISHED", 9000)
    stored = server.client.get_run(run.run_id)
    assert (stored.info.status, stored.info.end_time) == ("FINISHED", 9000)
    history = server.client.get_metric_history(run.run_id, "recall_5 _test_")
    assert [(m.step, m.value) for m in history] == [(0, 0.25), (1, 0.75)]
    assert [f.path for f in server.client.list_artifacts(run.run_id, "grids")] == ["grids/grid.txt"]


def test_a_journal_is_followed_across_truncation_and_torn_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    tail = JournalTail(journal.path)
    assert tail.new_events() == []
    for step in range(3):
        journal.metrics({"loss": 1.0}, step=step)
    assert [e["step"] for e in tail.new_events()] == [0, 1, 2]
    with journal.path.open("ab") as stream:
        stream.write(b'{"type": "metr')
    assert tail.new_events() == []
    journal.truncate_after(0)
    journal.metrics({"loss": 2.0}, step=1)
    assert [e["step"] for e in tail.new_events()] == [0, 1]


def test_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@track.example:8443/x")
    assert without_password(tracking_uri(tmp_path)) == "https://me:***@track.example:8443/x"
