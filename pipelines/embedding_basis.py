"""Principal components of the embeddings a model was trained on, or of a table given as a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.store import Artifact, Store
from pipelines.aligned import encoder_identity, read_embeddings, shard_names
from pipelines.generate import GenerateError

if TYPE_CHECKING:
    from torch import Tensor

    from models.pca import Pca

ROWS_AT_A_TIME = 16_384


def basis_of_file(path: Path, dim: int) -> Pca:
    """Of a `.npy` table [n, dim] of image embeddings.  Raises `GenerateError` where it is none."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise GenerateError(f"{path}: cannot be read as a .npy table: {error}") from error
    if table.ndim != 2 or table.shape[1] != dim:
        raise GenerateError(
            f"{path}: expected a table [n, {dim}] of image embeddings, got {list(table.shape)}"
        )
    return _fit(table[first : first + ROWS_AT_A_TIME] for first in range(0, len(table), ROWS_AT_A_TIME))


def basis_of_root(root: Path, encoder: Mapping[str, Any]) -> Pca:
    """Of the newest image embeddings in a root that are of the model's encoder."""
    found = [
        a for a in Store(root).artifacts() if a.kind in ("embeddings", "annotation") and _is_of(a, encoder)
    ]
    if not found:
        raise GenerateError(
            f"no embeddings of the model's encoder {encoder.get('name')!r} in {root}: give a table "
            f"with --embeddings"
        )
    newest = max(found, key=lambda artifact: float(artifact.host["finished_at"]))
    return _fit(read_embeddings(newest, "img", shard) for shard in shard_names(newest))


def _is_of(artifact: Artifact, encoder: Mapping[str, Any]) -> bool:
    try:
        return encoder_identity(artifact) == dict(encoder)
    except FileNotFoundError:  # an annotation of scores alone
        return False


def _fit(batches: Iterator[np.ndarray]) -> Pca:
    import torch

    from models.pca import Pca

    def tensors() -> Iterator[Tensor]:
        for rows in batches:
            yield torch.from_numpy(np.array(rows, dtype=np.float32))

    try:
        return Pca.fit(tensors())
    except ValueError as error:
        raise GenerateError(str(error)) from error
