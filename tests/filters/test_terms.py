"""Terms of captions: whole words, any case, phrases across punctuation; the shipped file is sound."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from filters.terms import Terms, TermsError

SHIPPED = Path("filters/terms.yaml")


def terms(**forms: list[str]) -> Terms:
    return Terms.model_validate({"schema_version": 1, "groups": {"g": forms}})


def found(captions: list[str | None], **forms: list[str]) -> dict[str, list[int]]:
    hits = terms(**forms).find(pa.array(captions, pa.string()))
    return {term.name: rows.nonzero()[0].tolist() for term, rows in hits}


def test_whole_words_in_any_case() -> None:
    captions = ["A Man, a plan", "woman", "MEN at work", "many mannequins", "human", None, ""]
    assert found(captions, man=["man", "men"], woman=["woman"]) == {"man": [0, 2], "woman": [1]}


def test_phrases_and_letters_beyond_ascii() -> None:
    captions = ["an old-man", "the old   man", "oldman", "un élève", "élèves", "e\u0301le\u0300ve"]
    assert found(captions, old=["old man"], pupil=["élève"]) == {"old": [0, 1], "pupil": [3, 5]}


def test_forms_are_words_not_patterns() -> None:
    assert found(["c++ coder", "c coder"], cpp=["c++"]) == {"cpp": [0]}


def test_the_shipped_file_has_the_four_groups() -> None:
    shipped = Terms.from_file(SHIPPED)
    assert set(shipped.groups) == {"people", "occupations", "places", "religions"}
    assert len(shipped) == len(list(shipped.each())) > 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {}", "schema_version: Field required"),
        ("schema_version: 1\ngroups: {people: {woman: woman}}", r"groups.people.woman: .* got 'woman'"),
        ("schema_version: 1\ngroups: {people: {woman: []}}", "groups.people.woman"),
        ("schema_version: 1\ngroups: {people: {woman: ['']}}", "groups.people.woman.0"),
        ("schema_version: [", "cannot be read as YAML"),
    ],
)
def test_what_is_wrong_names_file_and_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TermsError, match=message) as caught:
        Terms.from_file(path)
    assert "mine.yaml" in str(caught.value)
