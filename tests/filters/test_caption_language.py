"""fastText's language identification on captions, emoji names in many languages among them."""

from __future__ import annotations

import emoji
import numpy as np
import pytest

from filters.caption_language import CaptionLanguage
from filters.registry import load_scorer
from filters.scorer import Samples, checked_scores

SENTENCES = {
    "en": "a woman is reading a newspaper in the park",
    "de": "eine Frau liest im Park eine Zeitung",
    "fr": "une femme lit un journal dans le parc",
    "es": "una mujer lee un periódico en el parque",
    "ru": "женщина читает газету в парке",
    "ja": "女性が公園で新聞を読んでいる",
}


@pytest.fixture(scope="module")
def scorer() -> CaptionLanguage:
    return CaptionLanguage(languages=tuple(SENTENCES))


def scores(scorer: CaptionLanguage, captions: list[str]) -> dict[str, np.ndarray]:
    return checked_scores(scorer, Samples(keys=[str(i) for i in range(len(captions))], captions=captions))


@pytest.mark.parametrize("language", sorted(SENTENCES))
def test_a_sentence_is_in_its_language(scorer: CaptionLanguage, language: str) -> None:
    values = {name: float(value[0]) for name, value in scores(scorer, [SENTENCES[language]]).items()}
    assert values[f"language_{language}"] > 0.8
    assert sum(values.values()) <= 1.001


def test_case_and_line_breaks_do_not_matter(scorer: CaptionLanguage) -> None:
    one, other = "a red house by the sea", "A RED\nHOUSE \t by the SEA"
    assert scorer.probabilities(one) == scorer.probabilities(other)


def test_a_caption_without_letters_is_in_no_language(scorer: CaptionLanguage) -> None:
    for values in scores(scorer, ["", "2024-11-21", "❤ !?", "\x00\n"]).values():
        assert not values.any()


def names(language: str, count: int = 300) -> list[str]:
    """Names of emoji in a language: one to four words each."""
    emoji.config.load_language(language)
    entries = sorted({entry[language] for entry in emoji.EMOJI_DATA.values() if language in entry})
    return [entry.strip(":").replace("_", " ") for entry in entries[:: len(entries) // count]]


def test_rates_on_the_shortest_captions(scorer: CaptionLanguage) -> None:
    """A rule that drops below 0.05 keeps English names, and drops those in another script."""
    assert (scores(scorer, names("en"))["language_en"] > 0.05).mean() > 0.9
    for language in ("ru", "ar", "fa"):
        assert (scores(scorer, names(language))["language_en"] > 0.05).mean() < 0.02


def test_unknown_languages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"caption_language: no language klingon; known: af, als"):
        load_scorer("caption_language", languages=["en", "klingon"])
    with pytest.raises(ValueError, match="expected a list of language codes, got 'en'"):
        load_scorer("caption_language", languages="en")
