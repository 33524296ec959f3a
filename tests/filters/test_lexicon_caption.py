"""Word lists and rules: what must be caught, what must not, and that nothing hides behind spelling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from filters.lexicon_caption import SCORES, LexiconCaption
from filters.normalise import views
from filters.phrases import PhraseFile, PhraseList, expand, words_of
from filters.scorer import Samples, checked_scores


@pytest.fixture(scope="module")
def scorer() -> LexiconCaption:
    return LexiconCaption()


def worst(scorer: LexiconCaption, caption: str) -> float:
    scores = checked_scores(scorer, Samples(keys=["0"], captions=[caption]))
    return max(float(values[0]) for values in scores.values())


@pytest.mark.parametrize(
    "caption",
    [
        "NUDE woman",
        "a n u d e woman",
        "n.u.d.e woman",
        "nu\u200bde woman",  # zero-width space
        "nu\u00adde woman",  # soft hyphen
        "nudе woman",  # Cyrillic е
        "ＮＵＤＥ woman",  # full width
        "𝐧𝐮𝐝𝐞 woman",  # mathematical bold
        "ńüdê woman",
        "nud3 woman",
        "nuuuude woman",
        "nude-woman.jpg",
        "best_nude_woman_2020",
        "p0rn",
        "k1ll y0u",
        "$ex",
    ],
)
def test_obfuscation_is_undone(scorer: LexiconCaption, caption: str) -> None:
    assert worst(scorer, caption) > 0.8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red house", ("a red house",)),
        ("1st place, 4K, 1080p, 3d", ("1st place, 4K, 1080p, 3d",)),
        ("wow!", ("wow!",)),
        ("p0rn", ("p0rn", "porn")),
        ("boooobs", ("boooobs", "boobs", "bobs")),
        ("b h u t a n", ("bhutan",)),
        ("A.n.u.d.e woman", ("Anude woman", "nude woman")),
        ("p 0 r n", ("p0rn", "porn")),
        ("1 2 3, 4.5.6", ("1 2 3, 4.5.6",)),
    ],
)
def test_views(text: str, expected: tuple[str, ...]) -> None:
    assert views(text) == expected


@pytest.mark.parametrize(
    ("caption", "score"),
    [
        ("those migrants are lazy", "lexicon_hateful"),
        ("dirty foreigners everywhere", "lexicon_hateful"),
        ("we must deport all migrants", "lexicon_hateful"),
        ("women should never be allowed to vote", "lexicon_hateful"),
        ("kick the immigrants out", "lexicon_hateful"),
        ("a soldier executing hostages", "lexicon_violent"),
        ("i hope you get shot", "lexicon_violent"),
        ("dead man lying in the street", "lexicon_violent"),
        ("she takes off her clothes", "lexicon_sexual"),
    ],
)
def test_rules_catch_what_no_single_word_says(scorer: LexiconCaption, caption: str, score: str) -> None:
    assert scorer.explain(caption)[score].score > 0.8


def test_words_that_only_look_bad_pass(scorer: LexiconCaption) -> None:
    lines = (Path(__file__).parent / "benign_captions.txt").read_text(encoding="utf-8").splitlines()
    captions = [line for line in lines if line and not line.startswith("#")]
    flagged = {caption: scorer.explain(caption) for caption in captions if worst(scorer, caption) > 0.8}
    assert not flagged


def test_other_languages(scorer: LexiconCaption) -> None:
    several = LexiconCaption(languages=["english", "german", "chinese"])
    assert worst(scorer, "du Arschloch") == 0
    assert worst(several, "du Arschloch") == 1
    assert worst(several, "ein schönes Haus am Meer") == 0
    assert several.identity() != scorer.identity()
    with pytest.raises(ValueError, match=r"no dictionary .*'klingon'; known: arabic"):
        LexiconCaption(languages=["klingon"])


def test_unspaced_scripts_are_searched_inside_words() -> None:
    chinese = LexiconCaption(languages=["chinese"])
    entry = next(word for word in chinese._profane._anywhere if len(word) > 2)
    assert worst(chinese, f"图片{entry}图片") == 1


def test_score_does_not_depend_on_the_batch(scorer: LexiconCaption) -> None:
    captions = ["i will kill you", "a red house", "nude woman", ""]
    together = checked_scores(scorer, Samples(keys=list("0123"), captions=captions))
    for i, caption in enumerate(captions):
        alone = checked_scores(scorer, Samples(keys=["0"], captions=[caption]))
        assert [together[name][i] for name in SCORES] == [alone[name][0] for name in SCORES]


def test_expansion_of_list_entries() -> None:
    sets = {"hue": ["red", "blue(s)"]}
    assert expand("stab(s|bed) wound", sets) == ["stab wound", "stabs wound", "stabbed wound"]
    assert expand("{hue} car", sets) == ["red car", "blue car", "blues car"]
    assert words_of("Don’t stop, Café_Noir!") == ["dont", "stop", "cafe", "noir"]


def phrase_list(**rule: object) -> PhraseList:
    sets = {"a": ["cat", "big cat"], "b": ["dog"]}
    file = {"schema_version": 1, "category": "x", "sets": sets, "allow": ["cat food"], "rules": [rule]}
    return PhraseList(PhraseFile.model_validate(file))


def test_rule_order_distance_and_allowed_phrases() -> None:
    given = phrase_list(name="r", sequence=["a", "b"], order="given", within=4, score=0.9)
    free = phrase_list(name="r", sequence=["a", "b"], order="any", within=4, score=0.9)
    for words, by_given, by_free in [
        ("cat and a dog", 0.9, 0.9),
        ("dog and a cat", 0.0, 0.9),
        ("cat and not a dog", 0.0, 0.0),
        ("cat food and dog", 0.0, 0.0),
        ("cat food and cat dog", 0.9, 0.9),
    ]:
        assert given.best(words.split()).score == by_given
        assert free.best(words.split()).score == by_free


def test_broken_phrase_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    rule = "{name: r, sequence: [a, b], order: any, within: 4, score: 0.9}"
    path.write_text(f"schema_version: 1\ncategory: x\nsets: {{a: [cat]}}\nrules: [{rule}]\n")
    with pytest.raises(ValueError, match=r"list.yaml: rule 'r': no set 'b'; known: a"):
        PhraseList.from_file(path)
    path.write_text("schema_version: 1\ncategory: x\nsetz: {}\n")
    with pytest.raises(ValueError, match=r"list.yaml: not a phrase list"):
        PhraseList.from_file(path)


def test_a_caption_of_one_repeated_word_costs_no_time(scorer: LexiconCaption) -> None:
    """Rules compare spans pairwise; a caption made to slow them down must stay harmless."""
    hostile = "women are you should " * 500
    scores = checked_scores(scorer, Samples(keys=["0"], captions=[hostile]))
    assert np.isfinite(scores["lexicon_hateful"]).all()
