"""The journal: whole lines only, and a resumed training writes no step twice."""

from __future__ import annotations

from pathlib import Path

from infra.journal import Journal


def test_events_come_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.params({"lr": 0.1})
    journal.metrics({"loss": 2}, step=3)
    journal.artifact(tmp_path / "grid.png", "grids")
    assert [event["type"] for event in journal.events()] == ["params", "metrics", "artifact"]


def test_a_torn_last_line_is_skipped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.metrics({"loss": 2.0}, step=1)
    with journal.path.open("a") as stream:
        stream.write('{"type": "metrics", "st')
    assert [event["step"] for event in journal.events()] == [1]
    journal.metrics({"loss": 1.0}, step=2)
    assert [event["step"] for event in journal.events()] == [1, 2]


def test_truncation_forgets_only_later_metrics(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.params({"lr": 0.1})
    for step in (10, 20, 30):
        journal.metrics({"loss": step}, step=step)
    journal.truncate_after(20)
    assert [event.get("step") for event in journal.events()] == [None, 10, 20]
