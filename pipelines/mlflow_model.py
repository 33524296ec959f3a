"""The registered model as MLflow loads it ("models from code": this file is run, nothing is unpickled).

A copy of this file lies in every model folder.  It needs the `unclip` package installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model


class UnclipModel(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """Prompts in, PNG bytes out."""

    def load_context(self, context: Any) -> None:
        from pipelines.generate import Sampler

        self.sampler = Sampler.load(Path(context.artifacts["cascade"]))

    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """`model_input` has a column `prompt`; the answer has a column `png`, a row a prompt.

        params: `seed`, which with the prompt fixes the picture.
        """
        seed = int((params or {}).get("seed", 0))
        pictures = []
        for prompt in model_input["prompt"]:
            stages = self.sampler.sample(prompt, count=1, seed=seed)[0]
            pictures.append(self.sampler.png(stages[-1], prompt, seed, 0))
        return pd.DataFrame({"png": pictures})


set_model(UnclipModel())
