"""Semantic duplicates among more embeddings than memory holds (SemDeDup, 2303.09540).

Rows are cut into k-means clusters and compared within a cluster.  A border parts some pairs; another
clustering, of another seed, parts others, so the pairs of several are merged.  Five of them found 97 % of the
pairs in OpenAI's account of DALL-E 2's data.  In memory: 12 bytes a row, one cluster at a time, the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

if TYPE_CHECKING:
    from sklearn.cluster import MiniBatchKMeans

# Rows compared or assigned at once: 4,096 x 4,096 float32 products are 64 MiB.
BLOCK = 4096
# Rows of each cluster that its centre is fitted on, on average.
FITTED_PER_CLUSTER = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Rows of several arrays (one a shard, usually memory-mapped), counted through all of them.

    `positions` are the rows of each that take part, ascending.
    """

    shards: Sequence[Float[np.ndarray, "_rows d"]]
    positions: Sequence[Int[np.ndarray, " _used"]]

    @staticmethod
    def of(
        shards: Sequence[Float[np.ndarray, "_rows d"]],
        use: Sequence[Bool[np.ndarray, " _rows"]] | None = None,
    ) -> Vectors:
        """All rows, or those for which `use` is true."""
        masks = [np.ones(len(shard), bool) for shard in shards] if use is None else use
        return Vectors(shards=shards, positions=[np.flatnonzero(mask) for mask in masks])

    def __len__(self) -> int:
        return sum(map(len, self.positions))

    @property
    def width(self) -> int:
        return int(self.shards[0].shape[1]) if self.shards else 0

    @cached_property
    def _firsts(self) -> Int[np.ndarray, " shards"]:
        return np.cumsum([0, *map(len, self.positions)])

    def blocks(self) -> Iterator[tuple[int, Float32[np.ndarray, "_block d"]]]:
        """(number of the first row, rows of unit norm), in order.

        Raises ValueError for rows that are zero or not finite.
        """
        first = 0
        for shard, positions in zip(self.shards, self.positions, strict=True):
            for start in range(0, len(positions), BLOCK):
                block = shard[positions[start : start + BLOCK]]
                yield first + start, _unit(block, first + start + np.arange(len(block)))
            first += len(positions)

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Float32[np.ndarray, "chosen d"]:
        """The given rows, which must ascend, of unit norm."""
        return _unit(self[rows], rows)

    def __getitem__(self, rows: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, "chosen d"]:
        """The given rows, which must ascend, as they are stored."""
        firsts = self._firsts
        where = np.searchsorted(firsts, rows, side="right") - 1
        taken = [
            self.shards[shard][self.positions[shard][rows[where == shard] - firsts[shard]]]
            for shard in np.unique(where).tolist()
        ]
        return np.concatenate(taken) if taken else np.zeros((0, self.width), np.float32)

    def only(self, rows: Int[np.ndarray, " chosen"]) -> Vectors:
        """The given rows, which must ascend, counted from 0."""
        firsts = self._firsts
        parts = np.split(rows, np.searchsorted(rows, firsts[1:-1]))
        positions = [
            mine[part - first] for mine, part, first in zip(self.positions, parts, firsts[:-1], strict=True)
        ]
        return Vectors(shards=self.shards, positions=positions)

    def part(self, rows: Int[np.ndarray, " chosen"]) -> Part:
        """The given rows, which must ascend, read when they are asked for."""
        return Part(self, rows)


@dataclass(frozen=True)
class Part:
    """Some rows of `Vectors` of unit norm; a slice reads them."""

    vectors: Vectors
    rows: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, piece: slice) -> Float32[np.ndarray, "_piece d"]:
        return self.vectors.take(self.rows[piece])


def clustered_pairs(
    vectors: Vectors, min_cosine: float, *, clusters: int, seed: int, folder: Path
) -> tuple[Int[np.ndarray, "pairs 2"], Float32[np.ndarray, " pairs"]]:
    """Pairs (i < j) of rows with cosine > min_cosine within one clustering, sorted, and their cosines.

    `folder` must exist; the embeddings ordered by cluster, in float32, lie in it meanwhile.  Raises
    ValueError for rows that are zero or not finite.
    """
    labels = _labels(vectors, clusters, seed)
    order = np.argsort(labels, kind="stable").astype(np.int64)
    scratch = folder / f"by_cluster_{seed}.npy"
    found, cosines = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    if not len(order):
        return found[0], cosines[0]
    grouped = _grouped(vectors, order, scratch)
    borders = np.flatnonzero(np.diff(labels[order])) + 1
    for start, stop in zip(np.r_[0, borders], np.r_[borders, len(order)], strict=True):
        for pairs, cosine in pairs_within(grouped[start:stop], min_cosine):
            found.append(np.sort(order[start:stop][pairs], axis=1))
            cosines.append(cosine)
    del grouped
    scratch.unlink()
    pairs, values = np.concatenate(found), np.concatenate(cosines)
    rank = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[rank], values[rank]


def merged(
    parts: Sequence[tuple[Int[np.ndarray, "_pairs 2"], Float32[np.ndarray, " _pairs"]]],
) -> tuple[Int[np.ndarray, "pairs 2"], Float32[np.ndarray, " pairs"]]:
    """The pairs of several clusterings, each once."""
    pairs = np.concatenate([part[0] for part in parts])
    unique, first = np.unique(pairs, axis=0, return_index=True)
    return unique, np.concatenate([part[1] for part in parts])[first]


def brute_force_pairs(
    vectors: Vectors, rows: Int[np.ndarray, " queries"], min_cosine: float
) -> Int[np.ndarray, "pairs 2"]:
    """All pairs (i < j) with cosine > min_cosine that one of `rows` is in: what recall is measured by."""
    rows = np.sort(rows)
    queries = vectors.take(rows)
    found = [np.zeros((0, 2), np.int64)]
    for start, block in vectors.blocks():
        i, j = np.nonzero(queries @ block.T > min_cosine)
        pairs = np.stack([rows[i], start + j], axis=1)
        found.append(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def recall(found: Int[np.ndarray, "_found 2"], true: Int[np.ndarray, "_true 2"]) -> tuple[int, int]:
    """How many of the `true` pairs are among `found`, and how many there are."""
    found = found[np.isin(found, true).all(axis=1)]
    known = set(map(tuple, found.tolist()))
    return sum(tuple(pair) in known for pair in true.tolist()), len(true)


def _labels(vectors: Vectors, clusters: int, seed: int) -> Int[np.ndarray, " n"]:
    """Cluster of each row; the centres are fitted on a sample."""
    count = len(vectors)
    if clusters < 2 or count <= clusters:
        return np.zeros(count, np.int32)
    model = _fitted(vectors, count, clusters, seed)
    labels = np.empty(count, np.int32)
    for start, block in vectors.blocks():
        labels[start : start + len(block)] = model.predict(block)
    return labels


def _fitted(vectors: Vectors, count: int, clusters: int, seed: int) -> MiniBatchKMeans:
    from sklearn.cluster import MiniBatchKMeans

    rows = np.random.default_rng(seed).choice(count, min(count, FITTED_PER_CLUSTER * clusters), replace=False)
    model = MiniBatchKMeans(clusters, random_state=seed, batch_size=BLOCK, n_init=1, init="random")
    return model.fit(vectors.take(np.sort(rows)))


def _grouped(vectors: Vectors, order: Int[np.ndarray, " n"], path: Path) -> Float[np.ndarray, "n d"]:
    """The rows in `order`, of unit norm, as a file that is mapped into memory."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(order), vectors.width))
    for start, block in vectors.blocks():
        out[place[start : start + len(block)]] = block
    return out


def pairs_within(
    rows: Float[np.ndarray, "m d"] | Part, min_cosine: float
) -> Iterator[tuple[Int[np.ndarray, "_pairs 2"], Float32[np.ndarray, " _pairs"]]]:
    """Pairs of positions among `rows` (unit norm), block against block."""
    for i in range(0, len(rows), BLOCK):
        left = np.asarray(rows[i : i + BLOCK], np.float32)
        for j in range(i, len(rows), BLOCK):
            right = left if i == j else np.asarray(rows[j : j + BLOCK], np.float32)
            cosine = left @ right.T
            near = cosine > min_cosine
            if i == j:
                near = np.triu(near, k=1)
            a, b = np.nonzero(near)
            if len(a):
                yield np.stack([i + a, j + b], axis=1), cosine[a, b]


def _unit(
    block: Float[np.ndarray, "_block d"], numbers: Int[np.ndarray, " _block"]
) -> Float32[np.ndarray, "_block d"]:
    rows = np.asarray(block, np.float32)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
    if bad.any():
        raise ValueError(f"embedding of row {numbers[np.argmax(bad)]} is zero or not finite")
    return (rows / norms).astype(np.float32)
