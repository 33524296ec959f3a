"""Duplicates: pairs of rows that show the same thing (exact, perceptual), and how pairs become clusters.

Every finder returns pairs of row numbers; how alike a pair must be is its argument, so that a moved threshold
recomputes no hash and no embedding.  Pairs of several finders, or of several clusterings, are concatenated.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64
from PIL import Image

# Rows compared at once: 4096 x 4096 float32 products are 64 MiB.
_BLOCK = 4096
_THUMBNAIL = 16


def exact_pairs(digests: Sequence[str] | np.ndarray) -> Int[np.ndarray, "pairs 2"]:
    """Pairs with equal content digest (sha256): each row with the first of its kind."""
    _, first, inverse = np.unique(np.asarray(digests), return_index=True, return_inverse=True)
    rows = np.arange(len(digests))
    later = first[inverse] != rows
    return np.stack([first[inverse][later], rows[later]], axis=1).astype(np.int64)


def fingerprints(
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> tuple[UInt64[np.ndarray, "n 2"], UInt8[np.ndarray, "n 768"]]:
    """64-bit pHash and dHash of each image, and its 16 x 16 RGB thumbnail.

    The hashes see brightness only (a red and a blue heart share them) and on flat graphics pHash is mostly
    noise: they propose pairs, the thumbnail confirms.
    """
    import imagehash

    hashes = np.zeros((len(images), 2), dtype=np.uint64)
    thumbnails = np.zeros((len(images), 3 * _THUMBNAIL**2), dtype=np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image)
        # Both hashes look at grey; turned grey once, they are the same bits.
        grey = picture.convert("L")
        hashes[i] = _packed(imagehash.phash(grey).hash), _packed(imagehash.dhash(grey).hash)
        small = picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
        thumbnails[i] = np.asarray(small, dtype=np.uint8).ravel()
    return hashes, thumbnails


def perceptual_hash(image: UInt8[np.ndarray, "h w 3"]) -> np.uint64:
    """64-bit pHash of an RGB image: the number that imagehash prints as 16 hexadecimal digits."""
    import imagehash

    return _packed(imagehash.phash(Image.fromarray(image)).hash)


def perceptual_pairs(
    hashes: UInt64[np.ndarray, "n 2"],
    thumbnails: UInt8[np.ndarray, "n 768"],
    max_bits: int = 6,
    max_difference: int = 48,
) -> Int[np.ndarray, "pairs 2"]:
    """Pairs (i < j) that a hash proposes and the thumbnails confirm.

    max_bits: bits in which pHash or dHash may differ.
    max_difference: by how much of 255 any value of the two thumbnails may differ.
    The defaults find a copy that was resized and saved as JPEG, not one that was cropped, mirrored or framed.
    Of rows alike in every bit only the first is compared with others, and the rest are paired with it: the
    clusters are the same, and k placeholders make k - 1 pairs, not k (k - 1) / 2.
    """
    copies = exact_pairs(_fingerprint_digests(hashes, thumbnails))
    rows = np.delete(np.arange(len(hashes)), copies[:, 1])
    proposed = [rows[hamming_pairs(column, max_bits)] for column in hashes[rows].T]
    near = _confirmed(np.unique(np.concatenate(proposed), axis=0), thumbnails, max_difference)
    return np.unique(np.concatenate([copies, near]), axis=0)


def _confirmed(
    proposed: Int[np.ndarray, "proposed 2"], thumbnails: UInt8[np.ndarray, "n 768"], max_difference: int
) -> Int[np.ndarray, "pairs 2"]:
    near = np.zeros(len(proposed), dtype=bool)
    for start in range(0, len(proposed), _BLOCK):
        left, right = proposed[start : start + _BLOCK].T
        difference = np.abs(thumbnails[left].astype(np.int16) - thumbnails[right])
        near[start : start + _BLOCK] = difference.max(axis=1) <= max_difference
    return proposed[near]


def hamming_pairs(hashes: UInt64[np.ndarray, " n"], max_bits: int) -> Int[np.ndarray, "pairs 2"]:
    """All pairs (i < j) of 64-bit hashes at Hamming distance <= max_bits, sorted.

    Multi-index hashing (Norouzi et al. 2012): cut into max_bits + 1 bands, two such hashes agree in at least
    one band (pigeonhole), so only rows that share a band are compared.  Exact, not approximate.
    Raises ValueError unless 0 <= max_bits < 16: with shorter bands everything would be compared.
    """
    if not 0 <= max_bits < 16:
        raise ValueError(f"max_bits: expected 0 to 15, got {max_bits}")
    found = [np.zeros((0, 2), dtype=np.int64)]
    edges = np.linspace(0, 64, max_bits + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (hashes >> np.uint64(low)) & mask
        for rows in _groups(band):
            for a, b in _block_pairs(rows):
                near = np.bitwise_count(hashes[a][:, None] ^ hashes[b][None, :]) <= max_bits
                found.append(_upper(a, b, near))
    return np.unique(np.concatenate(found), axis=0)


def duplicate_clusters(pairs: Int[np.ndarray, "pairs 2"], n: int) -> Int[np.ndarray, " n"]:
    """Cluster of each of n rows: the smallest row that pairs connect it to, or itself."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= n):
        raise ValueError(f"pairs: expected row numbers in [0, {n}), got {pairs.min()} to {pairs.max()}")
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def spanning_pairs(pairs: Int[np.ndarray, "pairs 2"], n: int) -> Int[np.ndarray, "fewer 2"]:
    """Fewer than n pairs that connect the same of n rows as `pairs` do: each row with its cluster's first."""
    clusters = duplicate_clusters(pairs, n)
    later = np.flatnonzero(clusters != np.arange(n))
    return np.stack([clusters[later], later], axis=1)


def copy_ranks(
    clusters: Int[np.ndarray, " n"], areas: Int[np.ndarray, " n"], keys: Sequence[Any] | np.ndarray
) -> Int[np.ndarray, " n"]:
    """Place of each row in its cluster, 0 for the copy to keep: largest image first, then smallest key.

    keys: anything that sorts as the keys do.
    """
    order = np.lexsort((np.asarray(keys), -np.asarray(areas, dtype=np.int64), clusters))
    first = np.r_[True, np.diff(clusters[order]) != 0][: len(order)]
    positions = np.arange(len(order))
    ranks = np.zeros(len(order), np.int64)
    ranks[order] = positions - np.maximum.accumulate(np.where(first, positions, 0))
    return ranks


def _fingerprint_digests(
    hashes: UInt64[np.ndarray, "n 2"], thumbnails: UInt8[np.ndarray, "n 768"]
) -> np.ndarray:
    """16 bytes for each row: thumbnails themselves may be more than memory holds."""
    values = (
        hashlib.blake2b(pair.tobytes() + thumbnail.tobytes(), digest_size=16).digest()
        for pair, thumbnail in zip(hashes, thumbnails, strict=True)
    )
    return np.fromiter(values, dtype="S16", count=len(hashes))


def _packed(bits: Bool[np.ndarray, "8 8"]) -> np.uint64:
    return np.packbits(bits.ravel()).view(">u8").astype(np.uint64)[0]


def _groups(values: np.ndarray) -> Iterator[Int[np.ndarray, " m"]]:
    """Rows that share a value, for each value that more than one row has."""
    order = np.argsort(values, kind="stable")
    borders = np.flatnonzero(np.diff(values[order])) + 1
    for rows in np.split(order, borders):
        if len(rows) > 1:
            yield rows


def _block_pairs(rows: Int[np.ndarray, " m"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of blocks that cover every pair of rows, in bounded memory."""
    for i in range(0, len(rows), _BLOCK):
        for j in range(i, len(rows), _BLOCK):
            yield rows[i : i + _BLOCK], rows[j : j + _BLOCK]


def _upper(a: np.ndarray, b: np.ndarray, near: Bool[np.ndarray, "a b"]) -> Int[np.ndarray, "pairs 2"]:
    """Row pairs where ``near`` holds, smaller row first, without a row beside itself."""
    i, j = np.nonzero(near)
    pairs = np.sort(np.stack([a[i], b[j]], axis=1), axis=1)
    return pairs[pairs[:, 0] < pairs[:, 1]]
