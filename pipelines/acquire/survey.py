"""One pass over a URL list before its first request: rows counted, malformed ones met, equal URLs found.

Out of core: rows go to temporary files by a hash of their URL, so that equal URLs meet in one file, and each
file is settled alone, by the strings themselves.  What stays in memory is two numbers a repeated row.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.progress import Progress
from infra.store import WORK, Draft
from pipelines.acquire.reader import UrlList

PARTITIONS = 256
LISTED = pa.schema([("row", pa.int64()), ("url", pa.string())])
SURVEY_FILE = f"{WORK}/survey.json"
REPEATS_FILE = f"{WORK}/repeated_urls.npy"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """`rows` in the list; `repeats` (2, n): rows whose URL stands further up, ascending, and where."""

    rows: int
    repeats: np.ndarray

    def repeats_in(self, start: int, stop: int) -> dict[int, int]:
        """The repeated rows among [start, stop), each with the first row of the same URL."""
        begin, end = np.searchsorted(self.repeats[0], [start, stop])
        rows, firsts = self.repeats[:, begin:end].tolist()
        return dict(zip(rows, firsts, strict=True))


def survey(url_list: UrlList, draft: Draft, progress: Progress, *, find_repeats: bool) -> Survey:
    """Survey a list, or take up the survey that an earlier run of the same draft finished.

    Raises `UrlListError` at the first malformed row.  `progress` counts the rows as they are read.
    """
    record = draft.path / SURVEY_FILE
    if not record.is_file():
        progress.start(url_list.rows)
        rows, repeats = _read(_counted(url_list, progress), draft.work / "urls_by_hash", find_repeats)
        temporary = draft.temporary("repeated_urls.npy")
        with temporary.open("wb") as stream:
            np.save(stream, repeats)
        draft.commit_file(REPEATS_FILE, temporary)
        draft.write_bytes(SURVEY_FILE, json.dumps({"rows": rows}).encode())  # last: it vouches for the other
        progress.close()
    rows = json.loads(record.read_bytes())["rows"]
    return Survey(rows=rows, repeats=np.load(draft.path / REPEATS_FILE, mmap_mode="r"))


def _counted(url_list: UrlList, progress: Progress) -> Iterator[tuple[int, pa.RecordBatch]]:
    for position, batch in url_list.batches():
        yield position, batch
        progress.advance(batch.num_rows)


def _read(
    batches: Iterator[tuple[int, pa.RecordBatch]], folder: Path, find_repeats: bool
) -> tuple[int, np.ndarray]:
    """Number of rows, and the repeats as `Survey` has them."""
    if not find_repeats:
        return sum(batch.num_rows for _, batch in batches), np.empty((2, 0), np.int64)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    folder.mkdir()
    rows = _spread(batches, folder)
    repeats = np.concatenate([_repeats(folder / f"{n:03d}.arrow") for n in range(PARTITIONS)], axis=1)
    shutil.rmtree(folder)
    return rows, repeats[:, np.argsort(repeats[0])]


def _spread(batches: Iterator[tuple[int, pa.RecordBatch]], folder: Path) -> int:
    """Write every row's position and URL to the file its URL belongs to; returns the number of rows."""
    rows = 0
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as stack:
        writers = []
        for number in range(PARTITIONS):
            sink = stack.enter_context(pa.OSFile(str(folder / f"{number:03d}.arrow"), "wb"))
            writers.append(stack.enter_context(pa.ipc.new_stream(sink, LISTED, options=options)))
        for position, batch in batches:
            rows += batch.num_rows
            for number, part in _by_hash(position, batch.column("url")):
                writers[number].write_batch(part)
    return rows


def _by_hash(position: int, urls: pa.Array) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows that have a URL, by partition; inside one the order of the list stays."""
    rows = pa.array(np.arange(position, position + len(urls)))
    listed = pa.record_batch([rows, urls], schema=LISTED).filter(pc.not_equal(urls, ""))
    encoded = listed.column("url").cast(pa.binary()).to_numpy(zero_copy_only=False)
    hashes = np.fromiter(map(crc32, encoded), np.uint32, len(encoded))
    partition = (hashes % PARTITIONS).astype(np.uint8)
    order = np.argsort(partition, kind="stable")
    listed = listed.take(pa.array(order))
    bounds = np.searchsorted(partition[order], np.arange(PARTITIONS + 1))
    for number, (start, stop) in enumerate(pairwise(bounds.tolist())):
        if start < stop:
            yield number, listed.slice(start, stop - start)


def _repeats(path: Path) -> np.ndarray:
    """The repeats among one partition's rows."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
        table = reader.read_all()
    if not table.num_rows:
        return np.empty((2, 0), np.int64)
    rows = table["row"].to_numpy()
    encoded = table["url"].dictionary_encode()
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    firsts = np.empty(codes.max() + 1, np.int64)
    firsts[codes[::-1]] = rows[::-1]  # of equal codes the last assignment stays: the first row
    first = firsts[codes]
    again = rows != first
    return np.stack([rows[again], first[again]])
