"""The next snapshot: what is asked again changes, nothing else does, and every figure stays true."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from infra.shards import read_members
from infra.store import Artifact, Draft
from pipelines.acquire.config import Columns
from pipelines.acquire.facts import read_facts
from pipelines.acquire.report import REPORT_FILE
from pipelines.acquire.snapshot import Append, AppendConfig, Retry, RetryConfig
from pipelines.acquire.step import Acquire
from pipelines.demo.site import URLS_FILE
from pipelines.forget.shards import rewrite_shard
from tests.small_crawl import SHARD_SIZE, acquire, acquire_config, files_of, free_port, make_site, run_step
from tests.snapshots import append, repaired, retry, settings

PASSING = {"transient", "timeout"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("snapshots")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def site(root: Path, port: int) -> Artifact:
    return make_site(root, port)


@pytest.fixture(scope="module")
def corpus(root: Path, port: int, site: Artifact) -> Artifact:
    return acquire(root, site, acquire_config(port))


@pytest.fixture(scope="module")
def mended(root: Path, site: Artifact) -> Artifact:
    return repaired(site, root / "repaired")


@pytest.fixture(scope="module")
def retried(root: Path, port: int, corpus: Artifact, mended: Artifact) -> Artifact:
    return retry(root, corpus, mended, port)


def rows_of(corpus: Artifact) -> dict[str, dict[str, Any]]:
    rows = [
        row
        for shard in corpus.shards
        for row in pq.read_table(corpus.path / f"{shard.name}.parquet").to_pylist()
    ]
    return {row["key"]: row for row in rows}


def samples_of(corpus: Artifact) -> dict[str, dict[str, bytes]]:
    return {
        key: members
        for shard in corpus.shards
        for key, members in read_members(corpus.path / f"{shard.name}.tar")
    }


def test_only_the_rows_asked_for_change(corpus: Artifact, retried: Artifact) -> None:
    before, after = rows_of(corpus), rows_of(retried)
    asked = {key for key, row in before.items() if row["status"] in PASSING}
    assert list(after) == list(before) and asked
    assert {key for key in before if after[key] != before[key]} == asked
    assert {after[key]["status"] for key in asked} == {"success"}
    stored, kept = samples_of(retried), samples_of(corpus)
    assert {key: stored[key] for key in kept} == kept
    assert list(stored) == sorted([*kept, *asked])


def test_a_retry_that_gets_everything_is_the_crawl_of_the_mended_site(
    corpus: Artifact, retried: Artifact, mended: Artifact, port: int, tmp_path: Path
) -> None:
    assert files_of(retried) == files_of(acquire(tmp_path, mended, acquire_config(port)))
    assert retried.content != corpus.content


def test_untouched_shards_are_the_same_files(corpus: Artifact, retried: Artifact) -> None:
    for former, record in zip(corpus.shards, retried.shards, strict=True):
        files = [(a.path / f"{record.name}.tar").stat().st_ino for a in (corpus, retried)]
        untouched = not PASSING & former.rows.reasons.keys()
        assert (files[0] == files[1]) == untouched == (former == record)
    assert any(not PASSING & shard.rows.reasons.keys() for shard in corpus.shards)


def test_figures_are_true_after_a_retry(corpus: Artifact, retried: Artifact) -> None:
    asked = sum(corpus.rows.reasons[state] for state in PASSING)
    assert retried.rows.total == corpus.rows.total
    assert retried.rows.kept == corpus.rows.kept + asked
    assert not PASSING & retried.rows.reasons.keys()
    assert retried.summary["rows_asked_again"] == retried.summary["rows_recovered"] == asked
    report = json.loads((retried.path / REPORT_FILE).read_bytes())
    assert report["states"] == {"success": retried.rows.kept, **retried.rows.reasons}
    assert retried.manifest["inputs"]["corpus"]["content"] == corpus.content


def test_a_retry_checks_expected_digests_again(
    site: Artifact, mended: Artifact, port: int, tmp_path: Path
) -> None:
    table = pq.read_table(site.path / URLS_FILE)
    urls = tmp_path / "urls.parquet"
    pq.write_table(table.append_column("digest", pa.array(["0" * 32] * table.num_rows)), urls)
    columns = Columns(extra=("licence",), verify_hash=("digest", "md5"))
    config = acquire_config(port).model_copy(update={"urls": None, "url_list": str(urls), "columns": columns})
    corpus = run_step(tmp_path, Acquire(), config, {"serve": site})
    again = config.model_dump(exclude={"url_list"}) | {"corpus": "corpus", "parent": corpus.address}
    inputs = {"corpus": corpus, "serve": mended}
    retried = run_step(tmp_path, Retry(), RetryConfig(**again), inputs)
    before, after = rows_of(corpus), rows_of(retried)
    asked = {key for key, row in before.items() if row["status"] in PASSING}
    assert asked and {after[key]["status"] for key in asked} == {"hash_mismatch"}
    assert "digest" not in next(iter(after.values()))


def test_a_purge_empties_the_facts_of_a_row(corpus: Artifact, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(corpus.path, tmp_path / "corpus"))
    draft = Draft(path=folder, kind="corpus", address="")
    before = read_facts(folder, "00000")
    assert before is not None
    gone = before["key"][1].as_py()
    files, _ = rewrite_shard(draft, "00000", {gone})
    for name, temporary in files.items():
        draft.commit_file(name, temporary)
    after = read_facts(folder, "00000")
    assert after is not None
    empty = dict.fromkeys(before.column_names) | {"key": gone}
    rows = before.to_pylist()
    assert rows[1] != empty and after.to_pylist() == [rows[0], empty, *rows[2:]]


def test_a_retry_that_gets_nothing_is_still_another_observation(
    corpus: Artifact, site: Artifact, port: int, tmp_path: Path
) -> None:
    again = retry(tmp_path, corpus, site, port)
    assert files_of(again) == files_of(corpus)
    assert again.content == corpus.content and again.address != corpus.address
    assert retry(tmp_path, again, site, port).address != again.address


def test_appended_rows_become_shards_after_the_last(
    retried: Artifact, mended: Artifact, root: Path, port: int
) -> None:
    table = pq.read_table(mended.path / URLS_FILE).slice(0, SHARD_SIZE + 1)
    urls = root / "more.parquet"
    pq.write_table(table, urls)
    appended = append(root, retried, mended, port, urls)
    names = [shard.name for shard in retried.shards]
    assert appended.shards[: len(names)] == retried.shards
    assert [shard.name for shard in appended.shards[len(names) :]] == [
        f"{len(names):05d}",
        f"{len(names) + 1:05d}",
    ]
    rows = rows_of(appended)
    assert len(rows) == appended.rows.total == retried.rows.total + table.num_rows
    added = list(rows.values())[retried.rows.total :]
    assert [row["url"] for row in added] == table["url"].to_pylist()
    assert appended.summary["rows_added"] == table.num_rows
    assert appended.summary["rows"] == appended.rows.total
    assert append(root, retried, mended, port, urls).path == appended.path


@pytest.mark.parametrize(
    "table, got",
    [
        (pa.table({"url": ["http://127.0.0.1/"], "caption": ["x"], "licence": [7]}), "licence (int64)"),
        (pa.table({"url": ["http://127.0.0.1/"], "caption": ["x"]}), "a column 'licence'"),
    ],
)
def test_a_list_with_other_columns_is_refused(
    table: pa.Table, got: str, corpus: Artifact, port: int, tmp_path: Path
) -> None:
    urls = tmp_path / "other.parquet"
    pq.write_table(table, urls)
    config = AppendConfig(**settings(port), parent=corpus.address, url_list=str(urls))
    (problem,) = Append().check(config) + Append().check_inputs(config, {"corpus": corpus})
    assert str(urls) in problem and got in problem


def test_only_what_can_be_had_is_retried(port: int) -> None:
    for wrong in (("success",), ("transeint",), ()):
        with pytest.raises(ValidationError, match="expected some of gone, transient"):
            RetryConfig(**settings(port), parent="", only=wrong)
    assert RetryConfig(**settings(port), parent="", only=("timeout", "gone")).only == ("gone", "timeout")
