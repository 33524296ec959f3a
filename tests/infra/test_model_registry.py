"""A model in a real MLflow registry: logged once, found by content, loaded back, run."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from infra.digests import sha256_of_file
from infra.model_registry import ALIAS, find_registered, register_model
from tests.tiny_cascade import tiny_model

CONTENT = "5" * 64


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A sqlite tracking address, and a run in it that is still going."""
    from mlflow import MlflowClient

    root = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{root}/mlflow.db"
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("demo", artifact_location=(root / "artifacts").as_uri())
    return uri, client.create_run(experiment).info.run_id


def test_registered_once_loaded_back_and_run(tracking: tuple[str, str], tmp_path: Path) -> None:
    import mlflow
    from mlflow import MlflowClient

    uri, run_id = tracking
    folder = tiny_model(tmp_path)
    assert find_registered("demo", CONTENT, tracking_uri=uri) is None
    arguments = {"tracking_uri": uri, "run_id": run_id, "name": "demo", "content": CONTENT}
    version = register_model(folder, **arguments)
    client = MlflowClient(uri, uri)
    assert version == register_model(folder, **arguments), "the second time finds the first"
    assert len(client.search_model_versions("name = 'demo'")) == 1
    assert str(client.get_model_version_by_alias("demo", ALIAS).version) == version
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING", "registration must not end the run"
    assert len(run.outputs.model_outputs) == 1
    found = find_registered("demo", CONTENT, tracking_uri=uri)
    assert found is not None and found.version == version

    previous = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model(found.uri)
    finally:
        mlflow.set_tracking_uri(previous)
    answer = loaded.predict(pd.DataFrame({"prompt": ["a red heart"]}), params={"seed": 4})
    picture = Image.open(io.BytesIO(answer["png"][0]))
    assert picture.size == (32, 32)
    assert picture.text["unclip:seed"] == "4"  # type: ignore[attr-defined]
    assert picture.text["unclip:model"] == sha256_of_file(folder / "cascade.json")  # type: ignore[attr-defined]


def test_a_folder_without_loader_is_refused(tmp_path: Path, tracking: tuple[str, str]) -> None:
    uri, run_id = tracking
    with pytest.raises(FileNotFoundError, match=r"mlflow_model.py is missing"):
        register_model(tmp_path, tracking_uri=uri, run_id=run_id, name="demo", content="0")
