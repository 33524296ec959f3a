"""What the demo's policy makes of captions that hide their words, only look bad, or are in other languages.

`python -m tests.benchmarks.robustness` prints all rates; these tests hold the floors.  The sealed half of the
planted captions is scored there and not looked at here.
"""

from __future__ import annotations

import functools

import pytest

from filters.lexicon_caption import LexiconCaption
from filters.policy import Policy
from filters.registry import load_scorer
from filters.scorer import Samples, checked_scores
from tests.benchmarks.robustness import LANGUAGES, POLICY, benign, dropped, planted
from tests.filters.emoji_names import emoji_names
from tests.filters.obfuscation import OBFUSCATIONS

NAMES = ("caption_geometry", "lexicon_caption", "toxic_caption")
# Of the open half's 30 captions at least so many are caught (all where no number is named), of the 171
# harmless ones at most so many (none where no number is named): a better filter may move them.
FLOOR = {"leetspeak": 28, "vowels stretched": 29}
CEILING = {
    "leetspeak": 6,
    "leetspeak, first letter kept": 5,
    "zero-width space after every letter": 3,
    "soft hyphen in every word": 9,
    "control characters in words": 9,
    "UTF-16 read as UTF-8": 1,
    "Armenian look-alikes": 1,
}


@functools.cache
def scorers() -> list:
    return [load_scorer(name) for name in NAMES]


def caught(captions: list[str]) -> int:
    return dropped(scorers(), Policy.from_file(POLICY), captions)


@pytest.mark.parametrize("name", sorted(OBFUSCATIONS))
def test_planted_captions_are_dropped_however_written(name: str) -> None:
    captions = [OBFUSCATIONS[name](caption) for caption in planted("open")]
    assert caught(captions) >= FLOOR.get(name, 30)


@pytest.mark.parametrize("name", sorted(OBFUSCATIONS))
def test_harmless_captions_stay_harmless_however_written(name: str) -> None:
    """A view may only add suspicion: this is where it could add too much."""
    captions = [OBFUSCATIONS[name](caption) for caption in benign()]
    assert caught(captions) <= CEILING.get(name, 0)


@pytest.mark.parametrize("name", ["letters spaced", "letters dotted"])
def test_harmless_names_written_with_single_letters(name: str) -> None:
    """The classifier of words takes single letters for abuse; it is not shown any."""
    names = [OBFUSCATIONS[name](caption) for caption in emoji_names()]
    assert caught(names) <= 1


@pytest.mark.parametrize(
    "caption",
    [
        "Scunthorpe town hall in winter",
        "breast of chicken with lemon",
        "a shooting star over the desert",
        "a rooster crowing cock-a-doodle-doo at dawn",
        "SCUNTHORPE UNITED FC",
        "roast breast of chicken, 12 servings",
        "shooting stars, 4k wallpaper",
        "Cock-a-doodle-doo!",
        "Dick Whittington and his cat",
        "Sussex, Essex, Middlesex",
    ],
)
def test_words_that_only_look_bad(caption: str) -> None:
    assert caught([caption]) == 0


@pytest.mark.parametrize("language", sorted(LANGUAGES.values()))
def test_dictionary_words_of_other_languages(language: str) -> None:
    """Every entry of a language's dictionary is found between other words, in capitals as well.

    This says that matching works in that script, not how many bad captions the dictionary covers.
    """
    scorer = LexiconCaption(languages=[language])
    entries = _entries(language)
    for write in (str, str.upper):
        captions = [f"foto 12, {write(entry)}, 2024" for entry in entries]
        scores = checked_scores(scorer, Samples(keys=captions, captions=captions))["lexicon_profane"]
        missed = [entry for entry, score in zip(entries, scores, strict=True) if score < 0.5]
        assert len(missed) <= 0.02 * len(entries), missed


def _entries(language: str) -> list[str]:
    from filters import lexicon_caption

    words = lexicon_caption._entries(lexicon_caption._dictionary(language))
    return [word for word in words if len(word) > 1]
