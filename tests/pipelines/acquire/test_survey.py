"""What is known of a URL list before its first request, and what becomes of repeated and altered rows."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from infra.origin import Origin, Site
from infra.progress import Progress
from infra.shards import read_tar
from infra.store import Artifact, Draft
from pipelines.acquire import survey as survey_module
from pipelines.acquire.config import AcquireConfig, AcquireResources, Columns, FetchConfig
from pipelines.acquire.reader import open_url_list
from pipelines.acquire.report import REPORT_FILE
from pipelines.acquire.states import State
from pipelines.acquire.step import Acquire
from pipelines.acquire.survey import Survey, survey
from tests.small_crawl import free_port, run_step

HOST = "127.0.0.1"


def surveyed(folder: Path, urls: list[str | None], *, find_repeats: bool = True) -> Survey:
    path = folder / "list.parquet"
    pq.write_table(pa.table({"url": pa.array(urls, pa.string())}), path, row_group_size=7)
    url_list = open_url_list(str(path), Columns(caption=None))
    draft = Draft(path=folder / "draft", kind="corpus", address="")
    return survey(url_list, draft, Progress("survey", quiet=True), find_repeats=find_repeats)


@settings(deadline=None, max_examples=15)
@given(urls=st.lists(st.one_of(st.none(), st.text("ab", max_size=3)), min_size=1, max_size=60))
def test_repeats_are_those_a_dictionary_finds(
    tmp_path_factory: pytest.TempPathFactory, urls: list[str | None]
) -> None:
    found = surveyed(tmp_path_factory.mktemp("survey"), urls)
    first: dict[str, int] = {}
    expected = {
        row: first[url]
        for row, url in enumerate(urls)
        if url and first.setdefault(url, row) != row  # without a URL there is nothing to repeat
    }
    assert found.rows == len(urls)
    assert found.repeats_in(0, len(urls)) == expected
    middle = len(urls) // 2
    assert found.repeats_in(0, middle) | found.repeats_in(middle, len(urls)) == expected


def test_equal_hashes_of_different_urls_are_no_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "crc32", lambda _: 7)
    found = surveyed(tmp_path, ["a", "b", "a", "c", "b"])
    assert found.repeats_in(0, 5) == {2: 0, 4: 1}


def test_a_finished_survey_is_not_taken_again(tmp_path: Path) -> None:
    first = surveyed(tmp_path, ["a", "a"])
    (tmp_path / "draft" / "_work" / "urls_by_hash").mkdir()  # what a killed survey leaves is no survey
    again = surveyed(tmp_path, ["a", "b", "b"])
    assert (again.rows, again.repeats.tolist()) == (first.rows, first.repeats.tolist())


def test_only_rows_are_counted_where_repeats_are_wanted(tmp_path: Path) -> None:
    found = surveyed(tmp_path, ["a", "a", None], find_repeats=False)
    assert (found.rows, found.repeats_in(0, 3)) == (3, {})


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Six pictures on loopback."""
    archive = tmp_path_factory.mktemp("site") / "site.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for shade in range(6):
            opened.writestr(f"{shade}.png", picture(shade))
    site = Site(host=HOST, port=free_port(), archives=(archive,))
    with Origin(site):
        yield site


def acquired(folder: Path, site: Site, rows: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    """Acquire a JSONL list in shards of three and return the corpus's rows."""
    path = folder / "list.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    config = AcquireConfig(
        url_list=str(path),
        shard_size=3,
        fetch=FetchConfig(retries=0, allow_private=(f"{HOST}:{site.port}",)),
        **settings,
    )
    resources = AcquireResources(shards_in_flight=2, cpus_per_shard=1)
    corpus = run_step(folder / "root", Acquire(), config, {}, resources=resources)
    check_account(corpus)
    return [
        row
        for shard in corpus.shards
        for row in pq.read_table(corpus.path / f"{shard.name}.parquet").to_pylist()
    ]


def check_account(corpus: Artifact) -> None:
    """Samples, states and account speak of the same rows."""
    tables = [pq.read_table(corpus.path / f"{shard.name}.parquet") for shard in corpus.shards]
    states = Counter(status for table in tables for status in table["status"].to_pylist())
    kept = [sample.key for shard in corpus.shards for sample in read_tar(corpus.path / f"{shard.name}.tar")]
    assert corpus.rows.kept == states.pop("success", 0) == len(kept)
    assert corpus.rows.dropped == states["duplicate_url"]
    report = json.loads((corpus.path / REPORT_FILE).read_bytes())
    assert sum(host["failed"] for host in report["worst_hosts"]) == corpus.rows.failed
    assert corpus.rows.reasons == {state: count for state, count in states.items() if count}


def test_the_second_row_of_a_url_is_not_fetched(tmp_path: Path, site: Site) -> None:
    where = f"http://{HOST}:{site.port}"
    names = ["0.png", "1.png", "0.png", "nowhere.png", "nowhere.png", "0.png?x", "0.png"]
    rows = [{"url": f"{where}/{name}", "caption": str(i)} for i, name in enumerate(names)]
    rows += [{"url": None, "caption": ""}] * 2
    done = acquired(tmp_path, site, rows)
    ok, twice, policy = State.OK, State.DUPLICATE_URL, State.REFUSED_BY_POLICY
    assert [row["status"] for row in done] == [ok, ok, twice, State.GONE, twice, ok, twice, policy, policy]
    keys = [row["key"] for row in done]
    messages = {row: done[row]["error_message"] for row in (2, 4, 6)}
    assert messages == {
        2: f"same URL as {keys[0]}",
        4: f"same URL as {keys[3]}",
        6: f"same URL as {keys[0]}",
    }
    (tmp_path / "again").mkdir()
    fetched = acquired(tmp_path / "again", site, rows, duplicate_urls="fetch")
    assert Counter(row["status"] for row in fetched) == {ok: 5, State.GONE: 2, policy: 2}


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha512"])
def test_bytes_that_are_not_the_expected_ones_are_told(tmp_path: Path, site: Site, algorithm: str) -> None:
    digests = [hashlib.new(algorithm, picture(shade)).hexdigest() for shade in range(6)]
    expected = [digests[0], digests[1].upper(), None, "", digests[5], digests[5]]
    rows = [
        {"url": f"http://{HOST}:{site.port}/{shade}.png", "caption": "x", "digest": digest, "n": shade}
        for shade, digest in enumerate(expected)
    ]
    columns = Columns(extra=("n",), verify_hash=("digest", algorithm))  # type: ignore[arg-type]
    done = acquired(tmp_path, site, rows, columns=columns)
    assert [row["status"] for row in done] == [State.OK] * 4 + [State.HASH_MISMATCH, State.OK]
    assert done[4]["error_message"] == f"expected {algorithm} {digests[5]}, got {digests[4]}"
    assert list(done[0])[:4] == ["n", "caption", "url", "key"]  # the digest does not travel on
    assert "verify_hash" not in done[0] and "digest" not in done[0]
