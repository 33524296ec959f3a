"""The whole workflow, as a user runs it, at small size: URLs to a registered model, tracked, and used."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.store import Artifact, Store

SMALL = Path(__file__).with_name("small.yaml")
# A hang, not a figure: beside other work on two cores the run took ten minutes.
pytestmark = pytest.mark.timeout(1800)
UNCLIP = [sys.executable, "-m", "workflows.cli.main"]


def unclip(*arguments: str, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*UNCLIP, *arguments], capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def recipe() -> list[str]:
    """The recipe, with a port for its site that is free here and now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    allowed = f'steps.acquire.fetch.allow_private=["127.0.0.1:{port}"]'
    return [str(SMALL), "--set", f"steps.site.port={port}", "--set", allowed]


@pytest.fixture(scope="module")
def root(recipe: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root after one finished run."""
    root = tmp_path_factory.mktemp("e2e") / "root"
    result = unclip("run", *recipe, "--root", str(root))
    assert result.returncode == 0, result.stderr[-3000:]
    return root


@pytest.fixture(scope="module")
def artifacts(root: Path) -> dict[str, list[Artifact]]:
    found: dict[str, list[Artifact]] = {}
    for artifact in Store(root).artifacts():
        found.setdefault(artifact.kind, []).append(artifact)
    return found


def test_every_step_left_an_artifact(artifacts: dict[str, list[Artifact]]) -> None:
    counts = {kind: len(found) for kind, found in artifacts.items()}
    assert counts == {
        **dict.fromkeys(("urls", "corpus", "annotation", "clusters", "verdict", "clip_heads"), 1),
        **dict.fromkeys(("embeddings", "prior", "decoder", "evaluation", "model"), 1),
        "upsampler": 2,
    }


def test_every_input_row_ends_somewhere(artifacts: dict[str, list[Artifact]]) -> None:
    verdict, corpus = artifacts["verdict"][0], artifacts["corpus"][0]
    listed = pq.read_table(artifacts["urls"][0].path / "urls.parquet")
    rows = verdict.rows
    assert rows.total == corpus.rows.total == len(listed)
    assert rows.total == rows.kept + rows.dropped + rows.failed
    assert rows.failed == corpus.rows.failed > 0 and rows.dropped > 0
    report = json.loads((verdict.path / "report.json").read_bytes())
    assert sum(entry["rows"] for entry in report["ended"]) == rows.total


def test_open_planted_captions_are_all_dropped(artifacts: dict[str, list[Artifact]]) -> None:
    summary = artifacts["verdict"][0].summary
    assert summary["planted_open"] == 30 and summary["planted_open_recall"] == 1.0
    assert summary["planted_sealed"] == 30, "the sealed half is scored, whatever its recall"
    assert summary["benign_dropped_share"] <= 0.05


def test_training_saw_only_kept_training_samples(artifacts: dict[str, list[Artifact]]) -> None:
    split_train = artifacts["verdict"][0].summary["split_train"]
    for kind in ("prior", "decoder"):
        assert artifacts[kind][0].rows.kept == split_train


def test_networks_are_no_toys(artifacts: dict[str, list[Artifact]]) -> None:
    for kind in ("prior", "decoder", "upsampler"):
        for artifact in artifacts[kind]:
            assert artifact.summary["parameters"] >= 1_000_000


def test_run_again_does_no_work(recipe: list[str], root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (root / "store").rglob("*") if path.is_file()}
    started = time.monotonic()
    result = unclip("run", *recipe, "--root", str(root))
    assert result.returncode == 0 and "nothing to do" in result.stdout + result.stderr
    assert time.monotonic() - started < 60  # a hang, not a figure: tests/benchmarks/demo.py measures
    assert before == {path: path.stat().st_mtime_ns for path in (root / "store").rglob("*") if path.is_file()}


def files(client: Any, run: Any, folder: str | None = None) -> set[str]:
    """Names of the files MLflow holds of a run, in one folder."""
    return {Path(entry.path).name for entry in client.list_artifacts(run.info.run_id, folder)}


def test_everything_is_tracked(root: Path, artifacts: dict[str, list[Artifact]]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=100)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1 and len(children) == 13
    assert {run.info.status for run in runs} == {"FINISHED"}
    steps = {run.info.run_name: run for run in children}
    (parent,) = parents

    (corpus,) = artifacts["corpus"]
    assert parent.data.tags["unclip.corpus.acquire"] == corpus.content
    assert parent.data.params["decoder/steps"] == steps["decoder"].data.params["steps"]
    assert parent.data.metrics["judge/rows_total"] == corpus.rows.total
    figures = {name for name in parent.data.metrics if name.startswith("evaluate/")}
    assert {"evaluate/upsampler_256_psnr_db_gain", "evaluate/decoder_loss_trained"} <= figures
    for name in ("prior", "decoder", "upsampler_256", "upsampler_1024"):
        losses = client.get_metric_history(steps[name].info.run_id, "loss")
        assert str(losses[-1].step) == steps[name].data.params["steps"]
    validations = client.get_metric_history(steps["prior"].info.run_id, "validation_loss")
    assert [point.step for point in validations] == [0, 2, 4]
    assert {"report.html", "report.json"} <= files(client, steps["judge"], "filter_report")
    assert {"grid.png", "evaluation.html"} <= files(client, steps["evaluate"], "evaluation")
    assert "recipe.yaml" in files(client, parent)
    versions: list[Any] = list(client.search_model_versions("name='unclip-small'"))
    assert len(versions) == 1


def test_generate_from_the_registered_model(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = unclip("generate", "a red heart", "-n", "2", "--out", str(out), "--root", str(root))
    assert result.returncode == 0, result.stderr
    from PIL import Image

    pictures = sorted(out.glob("*.png"))
    assert len(pictures) >= 2
    assert max(max(Image.open(path).size) for path in pictures) >= 512


def test_status_names_every_step(root: Path) -> None:
    result = unclip("status", str(root))
    assert result.returncode == 0
    for step in ("acquire", "judge", "decoder", "register"):
        assert step in result.stdout
