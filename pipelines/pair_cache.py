"""Semantic pairs of an annotation, kept in the store so that a moved threshold compares nothing anew.

A cache: what is in it can be computed again, and whether it is there changes no byte of any artifact.  It is
`store/_cache/pairs/DIGEST.npz`, where the digest is of the shards as they lie on disk (a purge changes them),
of the rows compared and of the clustering.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from filters.semantic_duplicates import Vectors, clustered_pairs
from infra.digests import digest_of
from infra.store import Artifact, commit_file

FOLDER = "_cache/pairs"


def semantic_pairs(
    annotation: Artifact, vectors: Vectors, *, stored_from: float, clusters: int, seed: int, work: Path
) -> tuple[Int[np.ndarray, "pairs 2"], Float32[np.ndarray, " pairs"]]:
    """`clustered_pairs` of cosine > stored_from, from the cache where they are there."""
    path = cache_path(annotation, vectors, stored_from=stored_from, clusters=clusters, seed=seed)
    if not path.is_file():
        pairs, cosines = clustered_pairs(vectors, stored_from, clusters=clusters, seed=seed, folder=work)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = work / path.name
        np.savez(temporary, pairs=pairs, cosines=cosines)
        commit_file(temporary, path)
    with np.load(path, allow_pickle=False) as stored:
        return stored["pairs"], stored["cosines"]


def cache_path(
    annotation: Artifact, vectors: Vectors, *, stored_from: float, clusters: int, seed: int
) -> Path:
    """Where the pairs of one clustering lie."""
    shards = [sorted(record.sha256.items()) for record in annotation.shards]
    rows = hashlib.sha256(b"".join(part.tobytes() for part in vectors.positions)).hexdigest()
    name = digest_of(
        {"shards": shards, "rows": rows, "from": stored_from, "clusters": clusters, "seed": seed}
    )
    return annotation.path.parents[1] / FOLDER / f"{name[:20]}.npz"
