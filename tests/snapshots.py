"""The small crawl and what may follow it: its site, broken and repaired, and a retry in a process of its own.

Run as a module it retries and kills itself (-9) once so many rows were asked again:
`python -m tests.snapshots ROOT PORT ROWS`.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile
from pathlib import Path

from PIL import Image

from infra.origin import SITE_FILE
from infra.progress import Progress
from infra.store import Artifact
from pipelines.acquire.config import AcquireResources
from pipelines.acquire.snapshot import Append, AppendConfig, Retry, RetryConfig
from tests.annotated import FatalProgress
from tests.small_crawl import acquire, acquire_config, make_site, run_step

RESOURCES = AcquireResources(shards_in_flight=2, cpus_per_shard=1)


def repaired(site: Artifact, folder: Path) -> Artifact:
    """The site after its server was mended: nothing fails for a passing reason any more."""
    if not folder.exists():
        shutil.copytree(site.path, folder)
        data = json.loads((folder / SITE_FILE).read_bytes())
        failing = [path for path, r in data["routes"].items() if r["hang"] or r["status"] >= 500]
        data["routes"] = {path: r for path, r in data["routes"].items() if path not in failing}
        (folder / SITE_FILE).write_text(json.dumps(data))
        picture = io.BytesIO()
        Image.new("RGB", (64, 48), "red").save(picture, "PNG")
        with zipfile.ZipFile(folder / "site" / "repaired.zip", "w") as archive:
            for path in failing:
                archive.writestr(path.removeprefix("/"), picture.getvalue())
    return Artifact(path=folder, manifest=site.manifest)


def retry(
    root: Path, corpus: Artifact, serve: Artifact, port: int, progress: Progress | None = None
) -> Artifact:
    config = RetryConfig(**settings(port), parent=corpus.address)
    inputs = {"corpus": corpus, "serve": serve}
    return run_step(root, Retry(), config, inputs, resources=RESOURCES, progress=progress)


def append(root: Path, corpus: Artifact, serve: Artifact, port: int, urls: Path) -> Artifact:
    config = AppendConfig(**settings(port), parent=corpus.address, url_list=str(urls))
    inputs = {"corpus": corpus, "serve": serve}
    return run_step(root, Append(), config, inputs, resources=RESOURCES)


def settings(port: int) -> dict[str, object]:
    former = acquire_config(port).model_dump(exclude={"urls", "serve", "url_list"})
    return former | {"corpus": "corpus", "serve": "site"}


if __name__ == "__main__":
    root, port, rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    site = make_site(root, port)
    corpus = acquire(root, site, acquire_config(port))
    retry(root, corpus, repaired(site, root / "repaired"), port, FatalProgress(rows))
