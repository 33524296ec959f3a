"""Which scorers a policy gets: those that make its scores, with the options that make them."""

from __future__ import annotations

from typing import Any

import pytest

from filters.choose import scorers_for
from filters.policy import Policy, PolicyError
from filters.registry import load_scorer


def policy(*scores: str, above: float = 0.5) -> Policy:
    rules: list[dict[str, Any]] = [
        {"name": f"r{i}", "category": "c", "action": "drop", "when": {"score": score, "above": above}}
        for i, score in enumerate(scores)
    ]
    head = {"schema_version": 1, "name": "p", "version": 1, "owner": "test"}
    return Policy.from_mapping(head | {"rules": rules}, origin="test")


@pytest.mark.parametrize(
    "scores, scorers",
    [
        (["language_en"], {"caption_language": {"languages": ["en"]}}),
        (["language_fr", "language_de"], {"caption_language": {"languages": ["de", "fr"]}}),
        (["concept_weapons"], {"zero_shot_concepts": {}}),
        (["concept_over_threshold"], {"zero_shot_concepts": {}}),
        (["clip_aesthetic"], {"clip_aesthetic": {}}),
        (["explicit_context"], {"pair_context": {}, "zero_shot_concepts": {}}),
        (["explicit_image", "toxic_toxic"], {"explicit_image": {}, "toxic_caption": {}}),
    ],
)
def test_scores_bring_their_scorers(scores: list[str], scorers: dict[str, Any]) -> None:
    assert scorers_for(policy(*scores)) == scorers


def test_the_options_make_the_scores() -> None:
    for name, options in scorers_for(policy("language_fr", "language_de", "concept_bed")).items():
        assert {"language_fr", "language_de", "concept_bed"} & {
            spec.name for spec in load_scorer(name, **options).specs
        }


def test_what_no_scorer_makes_is_refused_with_the_nearest() -> None:
    with pytest.raises(PolicyError, match=r"makes the score 'concept_weapon'.*'concept_weapons'"):
        scorers_for(policy("concept_weapon"))
    with pytest.raises(PolicyError, match="no value of 'language_en' meets this bound"):
        scorers_for(policy("language_en", above=1.0))
    # Its range is known with the weights alone.
    assert scorers_for(policy("clip_aesthetic", above=50.0))
