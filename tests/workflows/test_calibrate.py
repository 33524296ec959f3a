"""`unclip calibrate` on stored scores."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters.labels import Label, labels_csv
from infra.store import Artifact
from pipelines.aligned import metadata_file
from tests.scored import keys_of, positive, scored_annotation
from tests.tiny import tiny_corpus
from workflows.cli.main import run_cli


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    scored_annotation(folder, tiny_corpus(folder))
    return folder


@pytest.fixture
def labels(root: Path, tmp_path: Path) -> Path:
    (folder,) = (root / "store/annotation").iterdir()
    rows = [f"{key},violent,{int(positive(i))}" for i, key in enumerate(keys_of(Artifact.open(folder)))]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["key,category,label", *rows]) + "\n")
    return path


def test_threshold_rates_and_their_intervals(
    root: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", "--labels", str(labels), "--root", str(root), "--score", "alarm"]
    assert run_cli([*command, "--recall", "0.7", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recall"]["k"] == report["recall"]["n"] == 12  # fewer than 12 of 12 do not carry .7
    assert report["recall"]["clopper_pearson"][0] >= 0.7
    assert report["false_negative_rate"]["k"] == 0
    assert report["threshold"] == pytest.approx(0.6, abs=1e-6) and report["threshold"] < 0.6
    assert report["samples"] == 36 and report["samples_flagged"] == report["precision"]["n"] == 12
    assert report["warnings"] == []
    assert run_cli([*command, "--recall", "0.7"]) == 0
    text = capsys.readouterr().out
    assert "{score: alarm, above: 0.59" in text and "Clopper-Pearson" in text

    assert run_cli([*command, "--recall", "0.95"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "12 labelled positives" in line and "72 in all" in line


def test_rates_that_may_mislead_are_said_to(
    root: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels.write_text(
        labels.read_text().replace("label\n", "label,chosen_by\n").replace(",1\n", ",1,uncertain\n")
    )
    command = ["calibrate", "--labels", str(labels), "--root", str(root), "--recall", "0.5", "--json"]
    assert run_cli([*command, "--score", "alarm", "--side", "below"]) == 0
    picked, side = json.loads(capsys.readouterr().out)["warnings"]
    assert picked.startswith("12 labels are of samples that were picked")
    assert "try the other --side" in side


def test_copies_are_no_further_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve labelled positives that are one picture carry what one does."""
    annotation = scored_annotation(tmp_path, tiny_corpus(tmp_path))
    keys = keys_of(annotation)
    for record in annotation.shards:
        path = annotation.path / metadata_file(record.name)
        table = pq.read_table(path)
        same = ["e" * 64 if positive(keys.index(row["key"])) else row["sha256"] for row in table.to_pylist()]
        place = table.column_names.index("sha256")
        pq.write_table(table.set_column(place, "sha256", pa.array(same)), path)
    labels = tmp_path / "labels.csv"
    rows = [Label(key, "violent", positive(row)) for row, key in enumerate(keys)]
    labels.write_text(labels_csv(rows))
    command = ["calibrate", "--root", str(tmp_path), "--labels", str(labels), "--score", "alarm"]
    assert run_cli([*command, "--recall", "0.7"]) == 2
    assert "1 labelled positives support" in capsys.readouterr().err
    assert run_cli([*command, "--recall", "0.02", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recall"]["n"] == 1 and report["warnings"] == [
        "11 labels are of copies of labelled pictures, not counted again"
    ]
    labels.write_text(labels_csv([rows[0]._replace(positive=False), *rows[1:]]))
    assert run_cli([*command, "--recall", "0.02"]) == 2
    assert f"'{keys[0]}' and '{keys[3]}' show the same picture" in capsys.readouterr().err


def test_what_is_unknown_is_one_line(root: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["calibrate", "--root", str(root), "--labels", str(labels), "--recall", "0.5"]

    def refused(*arguments: str) -> str:
        assert run_cli([*command, *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "did you mean 'alarm'" in refused("--score", "alram")
    assert "no label in" in refused("--score", "alarm", "--category", "sexual")
    assert "--recall" in refused("--score", "alarm", "--recall", "1")
    assert "fits 0, expected one of" in refused("--score", "alarm", "--annotation", "0")
    assert "no annotation in" in refused("--score", "alarm", "--root", str(labels.parent))
    # The last row of a shard failed to download: it was never scored.
    labels.write_text("key,category,label\n000000009,violent,1\n")
    assert "labels.csv, line 2: unknown key" in refused("--score", "alarm")
