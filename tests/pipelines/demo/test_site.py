"""The demo's site: what is offered, how much of it is wrong, and that it is the same every time."""

from __future__ import annotations

import io
import json
import socket
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.store import Artifact
from pipelines.acquire.config import Columns
from pipelines.acquire.reader import open_url_list
from pipelines.demo.drawings import NEUTRAL
from pipelines.demo.plan import TROUBLE_WEIGHTS, PlannedRow, allocate, plan_rows, planted_captions
from pipelines.demo.site import HOST, TRUTH_FILE, URLS_FILE, OpenMojiSite, OpenMojiSiteConfig
from tests.small_crawl import files_of, free_port, make_site, run_step, site_config


@pytest.fixture(scope="module")
def demo_rows() -> list[PlannedRow]:
    """The rows of the demo's own settings."""
    return plan_rows(OpenMojiSiteConfig().amounts(), seed=0)


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_site(tmp_path_factory.mktemp("site"), free_port())


def test_the_demo_offers_what_its_issue_asks_for(demo_rows: list[PlannedRow]) -> None:
    counts = Counter(row.trouble for row in demo_rows)
    fine = [row for row in demo_rows if row.trouble in ("clean", "planted", "skin_tone")]
    assert len({row.drawing.code for row in fine}) == len(fine) >= 1600
    assert sum(row.look.side >= 1024 and row.look.crop == 0 for row in fine) == 200
    assert 1 - len(fine) / len(demo_rows) == pytest.approx(0.08, abs=0.002)
    assert counts["skin_tone"] == 100
    assert set(TROUBLE_WEIGHTS) <= set(counts)
    assert not any(0x1F1E6 <= row.drawing.first <= 0x1F1FF for row in fine)


def test_all_planted_captions_stand_on_office_things(demo_rows: list[PlannedRow]) -> None:
    planted = [row for row in demo_rows if row.trouble == "planted"]
    assert Counter((row.half, row.category, row.caption) for row in planted) == Counter(
        (row["half"], row["category"], row["caption"]) for row in planted_captions()
    )
    assert all(row.drawing.first in NEUTRAL for row in planted)
    assert not any(row.category or row.half for row in demo_rows if row.trouble != "planted")


def test_duplicates_point_at_what_they_duplicate(demo_rows: list[PlannedRow]) -> None:
    for row in demo_rows:
        assert (row.original is not None) == (
            row.trouble in ("exact_duplicate", "near_duplicate", "skin_tone")
        )
        if row.original is not None:
            original = demo_rows[row.original]
            assert original.trouble == "clean"
            assert original.drawing.code == row.drawing.concept
            assert (original.look == row.look) == (row.trouble == "exact_duplicate")


def test_files_match_their_list(small_site: Artifact) -> None:
    rows = open_url_list(str(small_site.path / URLS_FILE), Columns(extra=("licence",))).rows
    truth = pq.read_table(small_site.path / TRUTH_FILE).to_pylist()
    assert rows == len(truth) == small_site.rows.total == small_site.summary["rows"]
    stored: dict[str, bytes] = {}
    for path in sorted(small_site.path.glob("site/*.zip")):
        with zipfile.ZipFile(path) as archive:
            stored |= {name: archive.read(name) for name in archive.namelist()}
    by_url = {row["url"]: stored.get(row["url"].split("/", 3)[3]) for row in truth}
    for row in truth:
        body = by_url[row["url"]]
        assert (body is None) == (row["trouble"] in ("not_found", "server_error", "timeout"))
        if row["trouble"] == "clean":
            assert body is not None
            picture = Image.open(io.BytesIO(body))
            picture.load()
            extension = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}[str(picture.format)]
            assert row["url"].endswith(extension)
        if row["trouble"] == "exact_duplicate":
            assert body == by_url[row["duplicate_of"]]
    routes = json.loads((small_site.path / "origin.json").read_bytes())["routes"]
    assert len(routes) == sum(
        row["trouble"] in ("not_found", "server_error", "timeout", "html_page", "robots_noai")
        for row in truth
    )


def test_a_site_is_the_same_every_time_and_resumes(small_site: Artifact, tmp_path: Path) -> None:
    config = site_config(int(small_site.config["port"]))
    again = run_step(tmp_path, OpenMojiSite(), config, {})
    assert (again.content, files_of(again)) == (small_site.content, files_of(small_site))


def test_check_names_a_taken_port_and_an_impossible_amount() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        (problem,) = OpenMojiSite().check(site_config(port))
        assert f"port {port}" in problem
    (problem,) = OpenMojiSite().check(OpenMojiSiteConfig(images=9000, port=free_port()))
    assert "expected at most" in problem


@given(total=st.integers(min_value=0, max_value=500))
def test_allocation_is_exact_and_gives_everyone_a_share(total: int) -> None:
    counts = allocate(total, TROUBLE_WEIGHTS)
    assert sum(counts.values()) == total
    assert min(counts.values()) >= (1 if total >= len(TROUBLE_WEIGHTS) else 0)
