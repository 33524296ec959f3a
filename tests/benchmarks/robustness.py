"""Text scorers against obfuscation, on words that only look bad and in other languages: rates, not speed.

    python -m tests.benchmarks.robustness --json

Of the sealed half of the planted captions only numbers are printed: nothing may be tuned on it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import pyarrow as pa

from filters.intervals import wilson
from filters.policy import Policy
from filters.registry import load_scorer
from filters.scorer import Samples, Scorer, checked_scores
from tests.benchmarks.result import print_result
from tests.filters.emoji_names import emoji_names
from tests.filters.obfuscation import OBFUSCATIONS

POLICY = Path("filters/policies/demo.yaml")
HARMLESS_IMAGE = {"explicit_image": 0.0, "image_min_side": 256.0, "image_aspect": 1.0}
LANGUAGES = {
    "ar": "arabic",
    "de": "german",
    "es": "spanish",
    "fa": "persian",
    "fr": "french",
    "it": "italian",
    "ja": "japanese",
    "ko": "korean",
    "pt": "portuguese",
    "ru": "russian",
    "tr": "turkish",
    "zh": "chinese",
}
"""Languages that have both a dictionary and names of emoji."""


def planted(half: str) -> list[str]:
    with Path("pipelines/demo/planted_captions.csv").open(encoding="utf-8") as file:
        return [row["caption"] for row in csv.DictReader(file) if row["half"] == half]


def benign() -> list[str]:
    """Harmless captions that hold words a careless filter takes for something else."""
    lines = Path("tests/filters/benign_captions.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def dropped(scorers: list[Scorer], policy: Policy, captions: list[str]) -> int:
    """How many captions the policy drops beside an image that is beyond reproach."""
    samples = Samples(keys=[str(i) for i in range(len(captions))], captions=captions)
    columns: dict[str, Any] = {"key": samples.keys}
    for scorer in scorers:
        columns |= checked_scores(scorer, samples)
    columns |= {name: [value] * len(samples) for name, value in HARMLESS_IMAGE.items()}
    return policy.decide(pa.table(columns))["keep"].to_pylist().count(False)


def rate(hits: int, n: int) -> dict[str, Any]:
    """Count, trials and 95 % Wilson interval."""
    return {"k": hits, "n": n, "wilson_95": [round(end, 3) for end in wilson(hits, n)]}


def obfuscation_rates() -> dict[str, Any]:
    """For each obfuscation: planted captions dropped, by half, and harmless ones."""
    policy = Policy.from_file(POLICY)
    scorers = [load_scorer(name) for name in ("caption_geometry", "lexicon_caption", "toxic_caption")]
    texts = {
        "open": planted("open"),
        "sealed": planted("sealed"),
        "only_look_bad": benign(),
        "emoji_names": emoji_names(),
    }
    return {
        name: {
            which: rate(dropped(scorers, policy, [obfuscate(c) for c in captions]), len(captions))
            for which, captions in texts.items()
        }
        for name, obfuscate in OBFUSCATIONS.items()
    }


def names_in(code: str) -> list[str]:
    """Distinct names of emoji in a language, without those that differ in skin tone alone."""
    import emoji

    emoji.config.load_language(code)
    known = [entry for entry in emoji.EMOJI_DATA.values() if "skin_tone" not in entry["en"]]
    return sorted({entry[code].strip(":").replace("_", " ") for entry in known if code in entry})


def profane_rates() -> dict[str, Any]:
    """For each language: harmless names of emoji that its dictionary calls profane."""
    rates = {}
    for code, language in LANGUAGES.items():
        names = names_in(code)
        scorer = load_scorer("lexicon_caption", languages=[language])
        scores = checked_scores(scorer, Samples(keys=names, captions=names))["lexicon_profane"]
        rates[language] = rate(int((scores > 0.8).sum()), len(names))
    return rates


def english_rates(threshold: float = 0.05) -> dict[str, Any]:
    """For each language: names of emoji that a rule `language_en below 0.05` would keep."""
    scorer, rates = load_scorer("caption_language"), {}
    for code, language in {"en": "english", **LANGUAGES}.items():
        names = names_in(code)
        scores = checked_scores(scorer, Samples(keys=names, captions=names))["language_en"]
        rates[language] = rate(int((scores >= threshold).sum()), len(names))
    return rates


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    parser.parse_args()
    torch.set_num_threads(1)
    print_result(
        "robustness",
        ours={
            "dropped": obfuscation_rates(),
            "harmless_called_profane": profane_rates(),
            "kept_as_english": english_rates(),
        },
        repeats=1,
        spread={},
    )


if __name__ == "__main__":
    main()
