"""One registered MLflow model per trained cascade: logged once, found again by the digest of its content.

The model folder carries its own loader (`mlflow_model.py`, MLflow's "models from code"), so nothing is
pickled and this file knows nothing of what the folder holds.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

LOADER_FILE = "mlflow_model.py"
EXAMPLE_FILE = "example.json"
CONTENT_TAG = "unclip.content"
ALIAS = "current"
"""`latest` is reserved by MLflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredModel:
    """A version in the registry; `uri` loads it with `mlflow.pyfunc.load_model`."""

    name: str
    version: str
    model_id: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def find_registered(name: str, content: str, *, tracking_uri: str) -> RegisteredModel | None:
    """The version of `name` whose content digest is `content`, or None."""
    from mlflow import MlflowClient

    return _find(MlflowClient(tracking_uri, tracking_uri), name, content)


def register_model(artifact_dir: Path, *, tracking_uri: str, run_id: str, name: str, content: str) -> str:
    """Log the model folder to run `run_id`, register it as a version of `name`, and point the alias at it.

    Returns the version.  A content already registered is not logged again: only the alias moves.  Nothing of
    MLflow's process-wide state (active run, tracking address) is touched, and the run keeps its status.

    Raises `FileNotFoundError` where the folder has no loader or example; MLflow's own errors pass through.
    """
    # Read by MLflow where it copies files; a bar for eight small ones is noise in a log.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for required in (LOADER_FILE, EXAMPLE_FILE):
        if not (artifact_dir / required).is_file():
            raise FileNotFoundError(
                f"{artifact_dir} is no model folder: {required} is missing; run the register step"
            )
    client = MlflowClient(tracking_uri, tracking_uri)
    found = _find(client, name, content)
    if found is None:
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        logged = _log(client, artifact_dir, run_id=run_id, name=name, content=content)
        # The tag comes with the version, in one call: a crash leaves a version that is found again, or none.
        # The source is an address, not `models:/<id>`, which the registry would look up in the process-wide
        # tracking store.
        version = client.create_model_version(
            name,
            logged.artifact_location,
            run_id=run_id,
            tags={CONTENT_TAG: content},
            model_id=logged.model_id,
        )
        found = RegisteredModel(name=name, version=str(version.version), model_id=logged.model_id)
    client.set_registered_model_alias(name, ALIAS, found.version)
    return found.version


def _find(client: MlflowClient, name: str, content: str) -> RegisteredModel | None:
    versions = client.search_model_versions(f"name = '{name}' and tags.`{CONTENT_TAG}` = '{content}'")
    if not versions:
        return None
    first = min(versions, key=lambda version: int(version.version))
    return RegisteredModel(name=name, version=str(first.version), model_id=str(first.model_id or ""))


def _log(client: MlflowClient, artifact_dir: Path, *, run_id: str, name: str, content: str) -> LoggedModel:
    """Log the folder as one pyfunc model of the run."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    run = client.get_run(run_id)
    logged = client.create_logged_model(
        experiment_id=run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        tags={CONTENT_TAG: content},
        model_type="unclip",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(artifact_dir / LOADER_FILE),
            artifacts={"cascade": str(artifact_dir)},
            signature=_signature(),
            input_example=pd.DataFrame(json.loads((artifact_dir / EXAMPLE_FILE).read_bytes())),
            # Listed, not inferred: inference would load the model in a second process.
            pip_requirements=["unclip", "mlflow", "torch"],
            mlflow_model=Model(
                artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id
            ),
        )
        client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id=run_id, models=[LoggedModelOutput(logged.model_id, step=0)])
    return logged


def _signature() -> Any:
    """A column of prompts in; one PNG (bytes) a row out.  Seed and guidance are optional parameters."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt")]),
        outputs=Schema([ColSpec(DataType.binary, "png")]),
        params=ParamSchema([ParamSpec("seed", DataType.long, 0)]),
    )
