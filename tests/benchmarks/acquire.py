"""Acquisition against img2dataset: one origin, one list, equal settings and bytes, runs alternating.

    python -m tests.benchmarks.acquire --json [--images 600] [--rows 2400] [--repeats 3]

The images are the demo's mixture (OpenMoji drawings as JPEG, PNG, WebP; sides of 192 to 1,152), served from
memory by a process of its own on the same machine.  Only the crawl is timed: of ours, the whole step
(planning, fetching, commit, report, manifest) after a warm-up that started Ray's workers; of img2dataset,
from the first shard's start to the last one's end by its own statistics files, which leaves out starting its
processes.  img2dataset gets the best of a few thread counts; HTTPS verifies a self-signed certificate that
stands behind the usual authorities in one file.  The limit is decoding, resizing and encoding alone, of the
same images from memory, by one process per core.  CPU seconds per image are the crawler's without the
origin's; what a run over an almost empty list costs is taken off img2dataset's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.memory import PeakMemory
from tests.benchmarks.result import print_result, spread

SIZE, MODE, QUALITY = 256, "border", 95
CORES = os.cpu_count() or 1
SHARDS = 2 * CORES
PEER = """
import json, sys
from img2dataset import download
if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One crawl: images per second, CPU seconds and peak memory of the crawler, and where its shards are."""

    images_per_second: float
    cpu_s: float
    peak_bytes: int
    shards: Path


def make_images(archive: Path, count: int) -> list[str]:
    """Render the demo's mixture into a zip; returns its names."""
    from pipelines.demo.plan import Amounts, path_of, plan_rows
    from pipelines.demo.render import content

    amounts = Amounts(images=count, large=count // 10, planted=0, skin_tones=0, trouble=0.0)
    names = []
    with zipfile.ZipFile(archive, "w") as opened:
        for index, row in enumerate(plan_rows(amounts, seed=0)):
            body = content(row)
            assert body is not None  # no trouble was ordered
            names.append(path_of(index, row))
            opened.writestr(names[-1], body)
    return names


def make_certificate(path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key; returns the usual authorities and it."""
    import certifi

    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-keyout", str(path), "-out", f"{path}.crt", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    certificate = Path(f"{path}.crt").read_bytes()
    path.write_bytes(path.read_bytes() + certificate)
    bundle = path.with_suffix(".bundle")
    bundle.write_bytes(Path(certifi.where()).read_bytes() + certificate)
    return bundle


@contextmanager
def origin(archive: Path, certificate: Path | None) -> Iterator[tuple[str, int]]:
    """Serve the archive; yields the base URL and the process id."""
    from tests.small_crawl import free_port

    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.image_origin", str(archive), str(port)]
    process = subprocess.Popen(
        [*command, *([str(certificate)] if certificate else [])], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


def write_list(path: Path, base: str, names: list[str], rows: int) -> Path:
    """`rows` different URLs; an image comes back under another query where there are fewer."""
    urls = [f"{base}/{names[i % len(names)]}?{i}" for i in range(rows)]
    pq.write_table(pa.table({"url": urls, "caption": [f"drawing {i}" for i in range(rows)]}), path)
    return path


def measured(command: list[str], environment: dict[str, str]) -> tuple[str, float, int]:
    """Run a command: its output, the CPU seconds of it and its descendants, the peak memory of its tree."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    with PeakMemory(process.pid) as memory:
        out, err = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command[:4])} failed with exit code {process.returncode}:\n{err[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return out, cpu_s, memory.peak_bytes


def run_peer(folder: Path, url_list: Path, threads: int, environment: dict[str, str]) -> Run:
    """img2dataset on the list, timed by its own statistics files."""
    rows = pq.read_metadata(url_list).num_rows
    shards = folder / "img2dataset"
    settings = {
        "url_list": str(url_list),
        "output_folder": str(shards),
        "input_format": "parquet",
        "output_format": "webdataset",
        "caption_col": "caption",
        "image_size": SIZE,
        "resize_mode": MODE,
        "encode_quality": QUALITY,
        "extract_exif": False,
        "processes_count": CORES,
        "thread_count": threads,
        "number_sample_per_shard": -(-rows // SHARDS),
        "timeout": 30,
    }
    script = folder / "peer.py"
    script.write_text(PEER)
    _, cpu_s, peak = measured([sys.executable, str(script), json.dumps(settings)], environment)
    stats = [json.loads(path.read_bytes()) for path in shards.glob("*_stats.json")]
    if sum(found["successes"] for found in stats) != rows:
        sys.exit(f"img2dataset: expected {rows} images, got {stats}")
    seconds = max(found["end_time"] for found in stats) - min(found["start_time"] for found in stats)
    return Run(images_per_second=rows / seconds, cpu_s=cpu_s, peak_bytes=peak, shards=shards)


def run_ours(folder: Path, url_list: Path, connections: int, environment: dict[str, str]) -> Run:
    """Our step on the list, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.acquire", "--ours", str(url_list), str(folder)]
    out, _, peak = measured([*command, "--connections", str(connections)], environment)
    found = json.loads(out.splitlines()[-1])
    return Run(
        images_per_second=found["rows"] / found["seconds"],
        cpu_s=found["cpu_s"],
        peak_bytes=peak,
        shards=Path(found["shards"]),
    )


def ours(url_list: Path, folder: Path, connections: int) -> None:
    """What `run_ours` starts: acquires a short list, then the list, and prints the second one's figures."""
    from infra.ray_session import ensure_ray, stop_ray
    from pipelines.acquire.config import AcquireConfig, AcquireResources, FetchConfig, ImageConfig
    from pipelines.acquire.step import Acquire
    from tests.small_crawl import run_step

    table = pq.read_table(url_list)
    warm_up = folder / "warm_up.parquet"
    pq.write_table(table.slice(0, 8 * CORES), warm_up)
    resources = AcquireResources(
        shards_in_flight=CORES, cpus_per_shard=1, connections=connections, per_host=connections * CORES
    )

    def acquire(path: Path, rows: int) -> Any:
        config = AcquireConfig(
            url_list=str(path),
            shard_size=-(-rows // SHARDS),
            fetch=FetchConfig(allow_private=("127.0.0.1",)),
            image=ImageConfig(
                size=SIZE, mode=MODE, quality=QUALITY, orientation="as_stored", max_aspect_ratio=1000
            ),
        )
        return run_step(folder / "root", Acquire(), config, {}, resources=resources)

    ensure_ray()
    acquire(warm_up, 8 * CORES)
    cpu_before, started = tree_cpu_s(os.getpid()), time.monotonic()
    artifact = acquire(url_list, table.num_rows)
    seconds, cpu_s = time.monotonic() - started, tree_cpu_s(os.getpid()) - cpu_before
    kept = artifact.manifest["rows"]["kept"]
    stop_ray()
    if kept != table.num_rows:
        sys.exit(f"expected {table.num_rows} images, got {artifact.manifest['rows']}")
    result = {"rows": kept, "seconds": seconds, "cpu_s": cpu_s, "shards": str(artifact.path)}
    print(json.dumps(result))


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and its living descendants."""
    import psutil

    process = psutil.Process(pid)
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


@cache
def _bodies(archive: Path) -> list[bytes]:
    with zipfile.ZipFile(archive) as opened:
        return [opened.read(name) for name in opened.namelist()]


def _process(archive: Path, start: int, rows: int) -> None:
    """Every `CORES`th image from `start`: what one core has to do for it, without network or disk."""
    import cv2

    from pipelines.acquire.config import ImageConfig
    from pipelines.acquire.decode import process_image

    cv2.setNumThreads(1)
    config = ImageConfig(
        size=SIZE, mode=MODE, quality=QUALITY, orientation="as_stored", max_aspect_ratio=1000
    )
    bodies = _bodies(archive)
    for index in range(start, rows, CORES):
        process_image(bodies[index % len(bodies)], config)


class Limit:
    """Decoding, resizing and encoding alone, on all cores."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.pool = ProcessPoolExecutor(CORES, mp_context=get_context("spawn"))
        self.images_per_second(8 * CORES)  # starts the processes

    def images_per_second(self, rows: int) -> float:
        started = time.monotonic()
        list(self.pool.map(partial(_process, self.archive, rows=rows), range(CORES)))
        return rows / (time.monotonic() - started)


def images_by_key(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    found[member.name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    return found


def compare(work: Path, scheme: str, arguments: argparse.Namespace, limit: Limit) -> dict[str, Any]:
    """Alternating runs over one scheme: the runs of both, the limits, and the origin's CPU seconds."""
    certificate = work / "origin.pem"
    bundle = make_certificate(certificate)
    environment = os.environ | {"SSL_CERT_FILE": str(bundle), "NO_ALBUMENTATIONS_UPDATE": "1"}
    with origin(work / "images.zip", certificate if scheme == "https" else None) as (base, pid):
        url_list = write_list(work / f"{scheme}.parquet", base, arguments.names, arguments.rows)
        tiny = write_list(work / f"{scheme}-tiny.parquet", base, arguments.names, SHARDS)

        def run(who: Any, path: Path, setting: int) -> tuple[Run, float]:
            folder = Path(tempfile.mkdtemp(dir=work))
            before = tree_cpu_s(pid)
            found = who(folder, path, setting, environment)
            return found, tree_cpu_s(pid) - before

        idle_cpu_s = run(run_peer, tiny, 4)[0].cpu_s
        tried = {
            threads: run(run_peer, url_list, threads)[0].images_per_second for threads in arguments.threads
        }
        threads = max(tried, key=tried.__getitem__)
        mine, theirs, limits = [], [], []
        for _ in range(arguments.repeats):
            limits.append(limit.images_per_second(arguments.rows))
            theirs.append(run(run_peer, url_list, threads))
            mine.append(run(run_ours, url_list, arguments.connections))
            print(scheme, limits[-1], theirs[-1], mine[-1], file=sys.stderr)
    if images_by_key(mine[0][0].shards) != images_by_key(theirs[0][0].shards):
        sys.exit(f"{scheme}: the two did not store the same bytes")

    def summary(runs: list[tuple[Run, float]], idle_cpu_s: float) -> dict[str, Any]:
        def median(values: Any) -> float:
            return round(statistics.median(values), 5)

        return {
            "images_per_second": spread([round(found.images_per_second, 1) for found, _ in runs]),
            "cpu_s_per_image": median((found.cpu_s - idle_cpu_s) / arguments.rows for found, _ in runs),
            "origin_cpu_s_per_image": median(cpu_s / arguments.rows for _, cpu_s in runs),
            "peak_gb": median(found.peak_bytes / 1e9 for found, _ in runs),
        }

    return {
        "ours": summary(mine, 0.0),
        "peer": summary(theirs, idle_cpu_s) | {"threads": threads, "tried": tried},
        "limit": spread([round(value, 1) for value in limits]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[16, 64], help="img2dataset's, to choose from"
    )
    parser.add_argument("--connections", type=int, default=32, help="ours, per worker")
    parser.add_argument("--schemes", nargs="+", default=["http", "https"])
    parser.add_argument("--ours", nargs=2, metavar=("LIST", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    arguments = parser.parse_args()
    if arguments.ours:
        ours(Path(arguments.ours[0]), Path(arguments.ours[1]), arguments.connections)
        return
    with tempfile.TemporaryDirectory(prefix="unclip-acquire-") as folder:
        work = Path(folder)
        arguments.names = make_images(work / "images.zip", arguments.images)
        limit = Limit(work / "images.zip")
        found = {scheme: compare(work, scheme, arguments, limit) for scheme in arguments.schemes}

    def rate(scheme: str, who: str) -> float:
        return float(found[scheme][who]["images_per_second"]["median"])

    ratios = {f"{s}_vs_img2dataset": round(rate(s, "ours") / rate(s, "peer"), 2) for s in found}
    limits = [result["limit"]["median"] for result in found.values()]
    fastest = arguments.schemes[0]
    ratios["vs_limit"] = round(rate(fastest, "ours") / statistics.median(limits), 2)
    print_result(
        "acquire",
        ours={scheme: result["ours"] for scheme, result in found.items()},
        peers={"img2dataset": {scheme: result["peer"] for scheme, result in found.items()}},
        limit={"images_per_second": statistics.median(limits)},
        ratios=ratios,
        repeats=arguments.repeats,
        spread={scheme: result["limit"] for scheme, result in found.items()},
    )


if __name__ == "__main__":
    main()
