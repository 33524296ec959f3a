"""Small pictures of a corpus' samples as data URIs, for pages without external assets."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterable

from infra.store import Artifact
from pipelines.aligned import read_table, shard_names
from pipelines.annotate.chunks import index_shard
from pipelines.pixels import UnreadableImageError, rgb

SIDE = 160
QUALITY = 80


def thumbnails(corpus: Artifact, keys: Collection[str], side: int = SIDE) -> dict[str, str]:
    """A JPEG of at most `side` x `side` pixels for each key with an intact image; reads no other image."""
    wanted, found = set(keys), dict[str, str]()
    for shard in shard_names(corpus) if wanted else ():
        here = wanted & set(read_table(corpus, shard, ["key"])["key"].to_pylist())
        found |= dict(_of_shard(corpus, shard, here, side)) if here else {}
    return found


def _of_shard(corpus: Artifact, shard: str, keys: set[str], side: int) -> Iterable[tuple[str, str]]:
    with (corpus.path / f"{shard}.tar").open("rb") as stream:
        for entry in index_shard(corpus.path, shard):
            if entry.key in keys:
                offset, size = entry.image
                stream.seek(offset)
                if uri := data_uri(stream.read(size), side):
                    yield entry.key, uri


def data_uri(data: bytes, side: int) -> str | None:
    """A JPEG as data URI; None where the bytes are no image."""
    try:
        picture = rgb(data)
    except UnreadableImageError:
        return None  # damaged: annotation has said so
    picture.thumbnail((side, side))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
