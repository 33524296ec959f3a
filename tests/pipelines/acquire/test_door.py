"""The door: what a list or the forget list names is not asked for, not followed to, and not stored."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagehash
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.forget import ForgetRecord, write_record
from infra.origin import Origin, Route, Site
from infra.shards import read_tar
from infra.store import Store
from pipelines.acquire.config import AcquireConfig, AcquireResources, BlockListFiles, FetchConfig
from pipelines.acquire.door import DoorSource
from pipelines.acquire.shard import ShardJob, acquire_shard
from pipelines.acquire.step import Acquire
from pipelines.forget.rows import url_digest
from tests.small_crawl import free_port
from tests.tiny import emoji_images

NAMES = ("a.jpg", "b.jpg", "c.jpg", "redirect.jpg")


class Counting(Origin):
    """An origin that remembers what it was asked for."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.asked: list[str] = []

    async def _answer(self, request: Any) -> Any:
        self.asked.append(request.path)
        return await super()._answer(request)


@pytest.fixture
def images() -> dict[str, bytes]:
    return {name: image for name, (image, _) in zip(NAMES, emoji_images(3), strict=False)}


@pytest.fixture
def origin(tmp_path: Path, images: dict[str, bytes]) -> Iterator[Counting]:
    """Three pictures, and a redirect to the first."""
    archive = tmp_path / "site.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for name, image in images.items():
            out.writestr(name, image)
    routes = {"/redirect.jpg": Route(status=302, headers={"Location": "/a.jpg"})}
    with Counting(Site(host="127.0.0.1", port=free_port(), archives=(archive,), routes=routes)) as serving:
        yield serving


def crawl(root: Path, origin: Counting, lists: BlockListFiles) -> dict[str, str]:
    """Acquire all four URLs as one shard; returns status and message by file name."""
    site = origin.site
    urls = [f"http://127.0.0.1:{site.port}/{name}" for name in NAMES]
    config = AcquireConfig(
        url_list="list.csv",
        fetch=FetchConfig(retries=0, allow_private=(f"127.0.0.1:{site.port}",)),
        block_lists=lists,
    )
    draft = Store(root).draft("corpus", "0" * 64)
    source = DoorSource.of(lists, root / "store")
    table = pa.table({"url": urls, "caption": list(NAMES)})
    resources = AcquireResources()
    acquire_shard(
        ShardJob(draft=draft, index=0, table=table, config=config, resources=resources, door=source)
    )
    rows = pq.read_table(draft.path / "00000.parquet").to_pylist()
    stored = {sample.key for sample in read_tar(draft.path / "00000.tar")}
    assert stored == {row["key"] for row in rows if row["status"] == "success"}
    return {name: f"{row['status']}: {row['error_message']}" for name, row in zip(NAMES, rows, strict=True)}


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines))
    return str(path)


def test_a_blocked_url_is_neither_asked_for_nor_followed_to(tmp_path: Path, origin: Counting) -> None:
    blocked = write(tmp_path / "blocked.txt", f"http://127.0.0.1:{origin.site.port}/a.jpg")
    ends = crawl(tmp_path, origin, BlockListFiles(urls=(blocked,)))
    refused = "refused_by_policy: block list blocked.txt (urls)"
    assert (ends["a.jpg"], ends["redirect.jpg"]) == (refused, refused)
    assert ends["b.jpg"] == ends["c.jpg"] == "success: None"
    assert set(origin.asked) & {f"/{name}" for name in NAMES} == {"/b.jpg", "/c.jpg", "/redirect.jpg"}


def test_a_blocked_host_is_not_asked_at_all(tmp_path: Path, origin: Counting) -> None:
    blocked = write(tmp_path / "hosts.txt", "127.0.0.1")
    ends = crawl(tmp_path, origin, BlockListFiles(domains=(blocked,)))
    assert set(ends.values()) == {"refused_by_policy: block list hosts.txt (domains)"}
    assert origin.asked == []


def test_blocked_bytes_and_pictures_are_not_stored(
    tmp_path: Path, origin: Counting, images: dict[str, bytes]
) -> None:
    digest = write(tmp_path / "md5.txt", hashlib.md5(images["a.jpg"]).hexdigest())
    phash = imagehash.phash(Image.open(io.BytesIO(images["b.jpg"])))
    # The list's owner may have decoded it otherwise: a bit or two may differ.
    pictures = write(tmp_path / "phash.txt", str(phash))
    lists = BlockListFiles.model_validate({"md5": (digest,), "phash": {"files": (pictures,), "radius": 2}})
    ends = crawl(tmp_path, origin, lists)
    assert ends["a.jpg"] == ends["redirect.jpg"] == "refused_by_policy: block list md5.txt (md5)"
    assert ends["b.jpg"] == "refused_by_policy: block list phash.txt (phash)"
    assert ends["c.jpg"] == "success: None"


def test_what_is_forgotten_is_not_fetched_again(
    tmp_path: Path, origin: Counting, images: dict[str, bytes]
) -> None:
    url = f"http://127.0.0.1:{origin.site.port}/b.jpg"
    record = ForgetRecord(
        number=1,
        when="",
        who="",
        reason="",
        list_sha256="",
        purge=False,
        urls=[url_digest(url)],
        images=[hashlib.sha256(images["c.jpg"]).hexdigest()],
        rows={},
        not_found=[],
    )
    write_record(tmp_path / "store", record)
    ends = crawl(tmp_path, origin, BlockListFiles())
    assert ends["b.jpg"] == ends["c.jpg"] == "refused_by_policy: on the store's forget list"
    assert ends["a.jpg"] == "success: None" and "/b.jpg" not in origin.asked


def test_the_content_of_a_list_decides_the_address_and_a_bad_one_the_plan(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "0" * 32)
    urls = write(tmp_path / "urls.txt", "https://example.org/a.jpg")
    config = AcquireConfig(url_list=urls, block_lists=BlockListFiles(md5=(path,)))
    before = Acquire().identity(config)
    write(tmp_path / "list.txt", "1" * 32)
    assert Acquire().identity(config) != before
    write(tmp_path / "list.txt", "no digest")
    assert any("list.txt, line 1: expected 32 hexadecimal" in line for line in Acquire().check(config))


def test_a_door_is_loaded_once_per_content(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", "0" * 32)
    files = BlockListFiles(md5=(path,))
    first = DoorSource.of(files, tmp_path)
    assert first.open() is DoorSource.of(files, tmp_path).open()
    write(tmp_path / "list.txt", "1" * 32)
    assert DoorSource.of(files, tmp_path).open() is not first.open()
