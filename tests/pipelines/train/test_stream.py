"""The training stream: order, slices, crops, and what it refuses."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from infra.shards import read_tar, write_parquet
from infra.store import Rows, Store, finish
from pipelines.aligned import MisalignedError, embedding_file, read_table
from pipelines.train.index import build_index
from pipelines.train.stream import (
    DamagedEmbeddingError,
    DamagedImageError,
    Stream,
    View,
    crop_corner,
    decode_square,
    epoch_order,
)
from tests.pipelines.train.fixtures import CONTEXT, Tiny


def _open(tiny: Tiny, **changes: object) -> Stream:
    settings: dict[str, object] = {"split": "train", "seed": 1, "context": CONTEXT, "view": View(side=32)}
    return Stream(tiny.index, **(settings | changes))  # type: ignore[arg-type]


def test_an_epoch_holds_every_kept_training_sample_once(tiny: Tiny) -> None:
    stream = _open(tiny)
    expected = set()
    for record in tiny.verdict.shards:
        for row in read_table(tiny.verdict, record.name).to_pylist():
            if row["keep"] and row["split"] == "train":
                expected.add(row["key"])
    first, second = stream.read(0, len(stream)), stream.read(len(stream), 2 * len(stream))
    assert set(first.keys) == set(second.keys) == expected
    assert len(first) == len(expected) == 24
    assert first.keys != second.keys


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_the_global_batches_do_not_depend_on_ranks_or_threads(tiny: Tiny, ranks: int, prefetch: int) -> None:
    view = View(side=48, crop=16)
    whole = _open(tiny, view=view).read(0, 8 * 7)  # 7 batches of 8: over two epochs of 24
    parts = []
    for rank in range(ranks):
        stream = _open(tiny, view=view)
        parts.append(list(stream.slices(0, 7, batch=8, rank=rank, ranks=ranks, prefetch=prefetch)))
    joined = [part for batch in zip(*parts, strict=True) for part in batch]
    assert [key for part in joined for key in part.keys] == list(whole.keys)
    for name in ("image_u8", "image_embedding", "text_embedding", "tokens", "positions", "weight"):
        assert np.array_equal(
            np.concatenate([getattr(part, name) for part in joined]), getattr(whole, name)
        ), name


def test_a_stream_taken_up_in_the_middle_of_an_epoch_goes_on_as_if_never_left(tiny: Tiny) -> None:
    unbroken = list(_open(tiny).slices(0, 6, batch=8, rank=1, ranks=2))
    resumed = list(_open(tiny).slices(4, 6, batch=8, rank=1, ranks=2))
    assert [b.keys for b in resumed] == [b.keys for b in unbroken[4:]]
    assert _open(tiny).cursor(4 * 8) == (1, 8)


def test_a_sample_carries_its_own_caption_embedding_and_pixels(tiny: Tiny) -> None:
    batch = _open(tiny).read(0, 24)
    shard = tiny.corpus.shards[1].name
    by_key = {s.key: s for s in read_tar(tiny.corpus.path / f"{shard}.tar")}
    seen = 0
    for i, key in enumerate(batch.keys):
        if key in by_key:
            seen += 1
            assert batch.captions[i] == by_key[key].caption
            assert batch.image_u8 is not None
            assert np.array_equal(batch.image_u8[i], decode_square(by_key[key].image, 32, key))
            row = int(key[-1])
            stored = np.load(tiny.embeddings.path / f"img_emb/img_emb_{shard}.npy")[row].astype(np.float32)
            assert np.allclose(batch.image_embedding[i], stored / np.linalg.norm(stored), atol=1e-6)
    assert seen == 6
    assert np.allclose(np.linalg.norm(batch.text_embedding, axis=1), 1, atol=1e-6)


def test_a_bounded_cache_changes_nothing_but_time(tiny: Tiny) -> None:
    small, large = _open(tiny, cache_bytes=4 * 32 * 32 * 3), _open(tiny)
    for stream in (small, large):
        stream.read(0, 24)
    a, b = small.read(24, 48).image_u8, large.read(24, 48).image_u8
    assert a is not None and b is not None
    assert np.array_equal(a, b)
    assert small._thumbnails._held <= 4 * 32 * 32 * 3


def test_crops_follow_seed_epoch_and_key_and_cover_the_image() -> None:
    corners = {crop_corner(0, epoch, "k", 64, 32) for epoch in range(200)}
    assert corners == {(8 * y, 8 * x) for y in range(5) for x in range(5)}
    assert crop_corner(0, 3, "k", 64, 32) == crop_corner(0, 3, "k", 64, 32)
    assert len({crop_corner(0, 0, f"k{i}", 256, 64) for i in range(20)}) > 10


def test_epoch_orders_are_permutations_that_differ() -> None:
    orders = [epoch_order(7, epoch, 50).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_a_wide_image_is_cropped_in_the_middle_and_transparency_is_white() -> None:
    import io

    from PIL import Image

    wide = Image.new("RGBA", (30, 10), (0, 0, 0, 0))
    wide.paste((255, 0, 0, 255), (10, 0, 20, 10))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    assert (decode_square(buffer.getvalue(), 10, "k") == np.array([255, 0, 0])[:, None, None]).all()
    tall = wide.crop((0, 0, 10, 10))
    buffer = io.BytesIO()
    tall.save(buffer, "PNG")
    assert (decode_square(buffer.getvalue(), 5, "k") == 255).all()


def test_a_damaged_image_says_which() -> None:
    with pytest.raises(DamagedImageError, match="sample 000017: 4 bytes do not decode"):
        decode_square(b"oops", 8, "000017")


@pytest.mark.parametrize("kind", ["img", "text"])
def test_an_embedding_that_is_no_number_says_which(
    tiny: Tiny, tmp_path: Path, kind: Literal["img", "text"]
) -> None:
    shard = tiny.corpus.shards[1].name
    own = {sample.key for sample in read_tar(tiny.corpus.path / f"{shard}.tar")}
    row = next(int(key[-1]) for key in _open(tiny).read(0, 24).keys if key in own)
    file = Path(shutil.copytree(tiny.embeddings.path, tmp_path / "copy")) / embedding_file(kind, shard)
    values = np.load(file)
    values[row, 5] = np.nan
    np.save(file, values)
    embeddings = dataclasses.replace(tiny.embeddings, path=tmp_path / "copy")
    build_index(tmp_path / "index.arrow", tiny.corpus, embeddings, tiny.verdict)
    with pytest.raises(DamagedEmbeddingError, match=rf"{file.name}, row {row}: expected finite numbers"):
        Stream(tmp_path / "index.arrow", split="train", seed=1).read(0, 24)


def test_an_index_cut_for_another_context_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=f"cut to {CONTEXT} tokens, expected 77"):
        _open(tiny, context=77)


def test_images_smaller_than_the_target_are_left_out_and_counted(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 65 px is kept for training \(36 are too small\)"):
        build_index(tmp_path / "i", tiny.corpus, tiny.embeddings, tiny.verdict, min_side=65)
    counts = build_index(tmp_path / "i", tiny.corpus, tiny.embeddings, tiny.verdict, min_side=64)
    assert counts.used == {"train": 24, "validation": 4, "test": 8}


def test_a_verdict_of_other_rows_is_refused_naming_shard_and_key(tiny: Tiny, tmp_path: Path) -> None:
    draft = Store(tmp_path).draft("verdict", "0" * 64)
    for record in tiny.verdict.shards:
        table = read_table(tiny.verdict, record.name)
        if record.name == "00002":
            keys = table["key"].to_pylist()
            table = table.set_column(0, "key", pa.array([*keys[:3], "x", *keys[4:]]))
        temporary = draft.temporary("t")
        write_parquet(temporary, table)
        draft.commit_shard(record.name, {f"{record.name}.parquet": temporary}, Rows(total=0, kept=0))
    step = {"kind": "t", "version": 1, "config": {}}
    other = finish(draft, step=step, inputs={}, summary={}, seconds=0)
    with pytest.raises(MisalignedError, match="shard 00002: key 3 is 'x'"):
        build_index(tmp_path / "i", tiny.corpus, tiny.embeddings, other)
