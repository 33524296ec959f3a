"""Acquire, whole: a small site with every kind of trouble becomes a corpus that accounts for every row."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.shards import read_tar
from infra.store import Artifact
from pipelines.acquire.report import PAGE_FILE, REPORT_FILE, Tally
from pipelines.acquire.states import State
from pipelines.acquire.step import Acquire
from pipelines.demo.site import TRUTH_FILE
from pipelines.step import input_kinds
from tests.small_crawl import acquire, acquire_config, files_of, free_port, make_site

EXPECTED_STATE = {
    "clean": State.OK,
    "planted": State.OK,
    "skin_tone": State.OK,
    "exact_duplicate": State.OK,
    "near_duplicate": State.OK,
    "not_found": State.GONE,
    "server_error": State.TRANSIENT,
    "timeout": State.TIMEOUT,
    "html_page": State.NOT_AN_IMAGE,
    "truncated": State.DECODE_ERROR,
    "one_pixel": State.TOO_SMALL,
    "too_large": State.TOO_LARGE,
    "robots_noai": State.REFUSED_BY_SITE,
}


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    root, port = tmp_path_factory.mktemp("crawl"), free_port()
    site = make_site(root, port)
    return site, acquire(root, site, acquire_config(port))


def rows_of(corpus: Artifact) -> list[dict[str, object]]:
    return [
        row
        for shard in corpus.shards
        for row in pq.read_table(corpus.path / f"{shard.name}.parquet").to_pylist()
    ]


def test_every_row_ends_in_the_state_its_trouble_calls_for(crawl: tuple[Artifact, Artifact]) -> None:
    site, corpus = crawl
    truth = {row["url"]: row["trouble"] for row in pq.read_table(site.path / TRUTH_FILE).to_pylist()}
    rows = rows_of(corpus)
    assert set(truth.values()) == set(EXPECTED_STATE)
    assert [(row["url"], row["status"]) for row in rows] == [
        (url, EXPECTED_STATE[trouble]) for url, trouble in truth.items()
    ]
    assert all((row["error_message"] is None) == (row["status"] == State.OK) for row in rows)


def test_rows_are_accounted_for_in_shards_manifest_and_report(crawl: tuple[Artifact, Artifact]) -> None:
    site, corpus = crawl
    states = Counter(str(row["status"]) for row in rows_of(corpus))
    assert corpus.rows.total == site.rows.total == states.total()
    assert corpus.rows.kept == states.pop("success")
    assert corpus.rows.reasons == states
    report = json.loads((corpus.path / REPORT_FILE).read_bytes())
    assert report["states"] == {"success": corpus.rows.kept, **states}
    assert report["success_share"] == pytest.approx(corpus.rows.kept / corpus.rows.total, abs=1e-6)
    (worst,) = report["worst_hosts"]
    assert worst["failed"] == corpus.rows.failed
    types = {group["name"]: group for group in report["content_types"]}
    assert sum(sum(group["states"].values()) for group in types.values()) == corpus.rows.total
    assert types["text/html"]["states"] == {"not_an_image": states["not_an_image"]}
    assert report["shorter_side"]["n"] == corpus.rows.kept < report["fetched_bytes"]["n"]
    page = (corpus.path / PAGE_FILE).read_text()
    assert f'<td>timeout</td><td class="n">{states["timeout"]}</td>' in page
    assert corpus.summary["state_timeout"] == states["timeout"]


def test_hosts_that_are_held_do_not_grow_with_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst host stays counted when thousands of others come and go."""
    monkeypatch.setattr("pipelines.acquire.report.HOSTS_HELD", 100)
    tally = Tally()
    for shard in range(50):
        urls = ["http://bad.example/x"] * 3 + [f"http://{shard}-{i}.example/x" for i in range(20)]
        sizes = pa.array([100] * len(urls), pa.int32())
        status = ["gone"] * 3 + ["success"] * 20
        rows = {"url": urls, "status": status, "error_message": ["no"] * 3 + [None] * 20}
        tally.add(pa.table(rows | {"original_width": sizes, "original_height": sizes}), None, 10)
        assert len(tally.hosts) <= 120
    report = tally.report()
    assert report["worst_hosts"] == [{"name": "bad.example", "failed": 150, "states": {"gone": 150}}]
    assert report["worst_hosts_are_estimates"] and report["rows"] == 50 * 23


def test_a_stored_sample_is_the_served_one(crawl: tuple[Artifact, Artifact]) -> None:
    site, corpus = crawl
    served = {}
    for archive in site.path.glob("site/*.zip"):
        with zipfile.ZipFile(archive) as opened:
            served |= {name: opened.read(name) for name in opened.namelist()}
    fetched = {row["key"]: row for row in rows_of(corpus) if row["status"] == State.OK}
    samples = [sample for shard in corpus.shards for sample in read_tar(corpus.path / f"{shard.name}.tar")]
    assert [sample.key for sample in samples] == sorted(fetched)
    for sample in samples:
        row = fetched[sample.key]
        assert sample.metadata == row
        assert sample.caption == row["caption"]
        body = served[str(row["url"]).split("/", 3)[3]]
        assert row["sha256"] == hashlib.sha256(body).hexdigest()
        picture = Image.open(io.BytesIO(sample.image))
        assert picture.size == (row["width"], row["height"])
        assert max(picture.size) == 128
        assert Image.open(io.BytesIO(body)).size == (row["original_width"], row["original_height"])


def test_the_same_crawl_gives_the_same_bytes(crawl: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    site, corpus = crawl
    again = acquire(tmp_path, site, acquire_config(int(site.config["port"])))
    assert again.content == corpus.content
    assert files_of(again) == files_of(corpus)


def test_no_private_address_is_fetched_unless_allowed(
    crawl: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    site, _ = crawl
    config = acquire_config(int(site.config["port"]))
    closed = config.model_copy(update={"fetch": config.fetch.model_copy(update={"allow_private": ()})})
    corpus = acquire(tmp_path, site, closed)
    assert corpus.rows.reasons == {"private_address": corpus.rows.total}
    assert all(list(read_tar(corpus.path / f"{shard.name}.tar")) == [] for shard in corpus.shards)


def test_a_taken_port_is_told_before_the_run(crawl: tuple[Artifact, Artifact]) -> None:
    site, _ = crawl
    port = int(site.config["port"])
    assert Acquire().check_inputs(acquire_config(port), {"urls": site, "serve": site}) == []
    with socket.create_server(("127.0.0.1", port)):
        (problem,) = Acquire().check_inputs(acquire_config(port), {"urls": site, "serve": site})
    assert f"port {port} on 127.0.0.1 cannot be used" in problem


def test_inputs_are_declared() -> None:
    assert input_kinds(type(acquire_config(1))) == {"urls": ("urls",), "serve": ("urls",)}
