"""Labels of people: a CSV with the columns `key,category,label` and, where known, `chosen_by` and `sha256`.

One row says whether a sample belongs to a category (`1`) or not (`0`).  `chosen_by` names how the sample came
to be looked at (`random`, `uncertain`, ...): rates of samples that were picked for being hard are no rates of
the corpus.  A key is a place in a corpus, and other corpora have the same keys: `sha256`, of the image's
bytes, says which picture was looked at.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from filters.registry import nearest

COLUMNS = ("key", "category", "label", "chosen_by", "sha256")
REQUIRED = COLUMNS[:3]
RANDOM = "random"


class LabelsError(ValueError):
    """A labels file that cannot be used; one line that names the file and, where there is one, its line."""


class Label(NamedTuple):
    """One decision: does the sample `key` belong to `category`?"""

    key: str
    category: str
    positive: bool
    chosen_by: str = ""
    sha256: str = ""

    @property
    def picked(self) -> bool:
        """Chosen for labelling by something other than chance."""
        return self.chosen_by not in ("", RANDOM)


def read_labels(
    path: Path, *, images: Mapping[str, str] | None = None, categories: Collection[str] | None = None
) -> list[Label]:
    """The file's labels in its order, equal rows once.

    `images` (the sha256 of each key) and `categories` are what a label may be of; None allows any.  Raises
    LabelsError, naming file and line, for what is unknown or misspelt, for a label of another picture than
    its key has here, and for two decisions that contradict each other.
    """
    found: dict[tuple[str, str], Label] = {}
    for line, row in _rows(path):
        label = _label(row, f"{path}, line {line}", images, categories)
        known = found.setdefault((label.key, label.category), label)
        if known.positive != label.positive:
            raise LabelsError(
                f"{path}, line {line}: {label.key!r} is labelled {int(label.positive)} for "
                f"{label.category!r}, but {int(known.positive)} further up; keep one of the two rows"
            )
    return list(found.values())


def merge_labels(old: Iterable[Label], new: Iterable[Label]) -> list[Label]:
    """Both, sorted by category and key; where both decide on the same sample, the new one holds."""
    merged = {(label.category, label.key): label for label in [*old, *new]}
    return [merged[place] for place in sorted(merged)]


def labels_csv(labels: Iterable[Label]) -> str:
    """The text of a labels file that `read_labels` reads back."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((one.key, one.category, int(one.positive), one.chosen_by, one.sha256) for one in labels)
    return out.getvalue()


def _rows(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    line = 0
    try:
        # utf-8-sig: spreadsheets put a byte order mark first, which would become part of a column's name.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restkey="", restval="")
            names = list(reader.fieldnames or ())
            if missing := [name for name in REQUIRED if name not in names]:
                raise LabelsError(
                    f"{path}: expected the columns {', '.join(REQUIRED)}, got {', '.join(names) or 'none'}; "
                    f"add {', '.join(missing)}"
                )
            for row in reader:
                line = reader.line_num
                yield line, {name: str(row.get(name, "")).strip() for name in COLUMNS}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{path}: cannot be read after line {line}: {error}") from error


def _label(
    row: dict[str, str], where: str, images: Mapping[str, str] | None, categories: Collection[str] | None
) -> Label:
    for name, known in (("key", images), ("category", categories)):
        given = row[name]
        if not given or (known is not None and given not in known):
            # A million keys are no help in a message; the categories are few.
            allowed = (
                f"; known: {', '.join(sorted(known))}{nearest(given, known)}"
                if known and name == "category"
                else "; labels of another root, or of samples that failed or were forgotten?"
            )
            raise LabelsError(f"{where}: unknown {name} {given!r}{allowed}")
    if row["label"] not in ("0", "1"):
        raise LabelsError(f"{where}: expected label 1 (belongs to the category) or 0, got {row['label']!r}")
    if images is not None and row["sha256"] not in ("", images[row["key"]]):
        raise LabelsError(
            f"{where}: key {row['key']!r} is another picture here; labels of another root? expected sha256 "
            f"{images[row['key']]}, got {row['sha256']}"
        )
    return Label(row["key"], row["category"], row["label"] == "1", row["chosen_by"], row["sha256"])
