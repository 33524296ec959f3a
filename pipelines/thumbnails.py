"""Small pictures of a corpus' samples as data URIs, for pages without external assets."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterable

from infra.store import Artifact
from pipelines.aligned import read_table, shard_names
from pipelines.annotate.chunks import index_shard

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
                if uri := _data_uri(stream.read(size), side):
                    yield entry.key, uri


def _data_uri(data: bytes, side: int) -> str | None:
    from PIL import Image

    try:
        picture: Image.Image = Image.open(io.BytesIO(data))
        picture.thumbnail((side, side))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        out = io.BytesIO()
        picture.convert("RGB").save(out, "JPEG", quality=QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # damaged: annotation has said so
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
