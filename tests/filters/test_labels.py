"""Labels: what is misspelt is named with its line; written and read back they are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from filters.labels import Label, LabelsError, labels_csv, merge_labels, read_labels

IMAGES, CATEGORIES = {"0001": "aa", "0002": "bb"}, {"violent", "sexual"}


def write(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_round_trip_and_spreadsheets(tmp_path: Path) -> None:
    labels = [Label("0001", "violent", True, "uncertain", "aa"), Label("0002", "violent", False, "")]
    assert read_labels(write(tmp_path, labels_csv(labels)), images=IMAGES, categories=CATEGORIES) == labels
    # A byte order mark, another order of columns, a column of one's own, equal rows.
    text = "﻿label,key,category,note\r\n1,0001,violent,x\r\n1,0001,violent,\r\n"
    assert read_labels(write(tmp_path, text)) == [Label("0001", "violent", True)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,label\n0001,1\n", "expected the columns key, category, label, got key, label; add category"),
        ("", "got none"),
        (
            "key,category,label\n0001,violent,1\n0009,violent,1\n",
            "line 3: unknown key '0009'; labels of another",
        ),
        (
            "key,category,label\n0001,voilent,1\n",
            r"line 2: unknown category 'voilent'.*did you mean 'violent'",
        ),
        ("key,category,label\n0001,violent,yes\n", "line 2: expected label 1 .* or 0, got 'yes'"),
        ("key,category,label\n0001,violent\n", "line 2: expected label"),
        (
            "key,category,label,sha256\n0001,violent,1,aa\n0002,violent,1,aa\n",
            "line 3: key '0002' is another picture here; .* expected sha256 bb, got aa",
        ),
        (
            "key,category,label\n0001,violent,1\n0001,violent,0\n",
            "line 3: '0001' is labelled 0 for 'violent', but 1 further up",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelsError, match=message) as caught:
        read_labels(write(tmp_path, text), images=IMAGES, categories=CATEGORIES)
    assert "labels.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"key,category,label\n\xe9,violent,1\n")
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path / "latin.csv")


def test_merging_takes_the_newer_decision() -> None:
    old = [Label("0002", "violent", True), Label("0001", "violent", True)]
    merged = merge_labels(old, [Label("0002", "violent", False, "random")])
    assert merged == [Label("0001", "violent", True), Label("0002", "violent", False, "random")]
