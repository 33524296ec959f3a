"""The demo's operating point: no planted caption of the open half is kept, few harmless ones are dropped."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import pyarrow as pa
import pytest

from filters.policy import Policy
from filters.registry import load_scorer
from filters.scorer import Samples, checked_scores
from tests.filters.emoji_names import emoji_names

TEXT_SCORERS = ("caption_geometry", "lexicon_caption", "toxic_caption")


HARMLESS_IMAGE = {"explicit_image": 0.0, "image_min_side": 256.0, "image_aspect": 1.0}

load_once = functools.cache(load_scorer)


def dropped(captions: list[str]) -> list[str]:
    """Captions that the demo's policy drops, beside an image that is beyond reproach."""
    samples = Samples(keys=[str(i) for i in range(len(captions))], captions=captions)
    columns: dict[str, object] = {"key": samples.keys}
    for name in TEXT_SCORERS:
        columns |= checked_scores(load_once(name), samples)
    columns |= {name: [value] * len(samples) for name, value in HARMLESS_IMAGE.items()}
    keep = Policy.from_file("filters/policies/demo.yaml").decide(pa.table(columns))["keep"].to_pylist()
    return [caption for caption, kept in zip(captions, keep, strict=True) if not kept]


@pytest.mark.parametrize("category", ["sexual", "hateful", "violent"])
def test_open_planted_captions_are_dropped(category: str) -> None:
    with Path("pipelines/demo/planted_captions.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["half"] == "open"]
    planted = [row["caption"] for row in rows if row["category"] == category]
    assert len(planted) == 10
    assert dropped(planted) == planted


def test_harmless_captions_are_kept() -> None:
    names = emoji_names()
    assert len(names) > 1_800
    # The demo's limit is 5 %; far below it, so that a regression shows.
    assert len(dropped(names)) <= 0.005 * len(names)


def test_captions_that_only_look_bad_are_kept() -> None:
    lines = (Path(__file__).parent / "benign_captions.txt").read_text(encoding="utf-8").splitlines()
    captions = [line for line in lines if line and not line.startswith("#")]
    assert dropped(captions) == []
