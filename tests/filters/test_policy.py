"""Policies: validation messages, precedence, boolean conditions, failed rows, and the demo's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from filters.policy import VERDICT_SCHEMA, Policy, PolicyError
from filters.registry import SCORERS, load_scorer

HEAD: dict[str, Any] = {"schema_version": 1, "name": "p", "version": 1, "owner": "o"}
DEMO = Path("filters/policies/demo.yaml")


def rule(name: str, when: dict[str, Any], action: str = "drop", **extra: Any) -> dict[str, Any]:
    return {"name": name, "category": "c", "action": action, "when": when, **extra}


def policy(*rules: dict[str, Any]) -> Policy:
    return Policy.from_mapping({**HEAD, "rules": list(rules)}, origin="p.yaml")


def table(**columns: list[float | None]) -> pa.Table:
    n = len(next(iter(columns.values())))
    return pa.table({"key": [f"{i:02d}" for i in range(n)], **columns})


def test_first_drop_rule_in_file_order_decides_then_review_then_weights() -> None:
    judged = policy(
        rule("review_a", {"score": "a", "above": 0.1}, action="review"),
        rule("half_a", {"score": "a", "below": 0.1}, action="weight", weight=0.5),
        rule("tenth_b", {"score": "b", "below": 0.1}, action="weight", weight=0.1),
        rule("drop_b", {"score": "b", "above": 0.5}),
        rule("drop_a", {"score": "a", "above": 0.5}),
    )
    scores = table(a=[0.9, 0.9, 0.2, 0.0, 0.0, 0.1], b=[0.9, 0.2, 0.2, 0.2, 0.0, 0.2])
    verdict = judged.decide(scores)
    assert verdict.schema == VERDICT_SCHEMA
    assert verdict["rule"].to_pylist() == ["drop_b", "drop_a", "review_a", "half_a", "half_a", None]
    assert verdict["keep"].to_pylist() == [False, False, False, True, True, True]
    assert verdict["weight"].to_pylist() == pytest.approx([0, 0, 0, 0.5, 0.05, 1])
    assert verdict["score"].to_pylist() == [pytest.approx(x) for x in (0.9, 0.9, 0.2, 0, 0)] + [None]
    assert verdict["reason"][0].as_py() == "drop: c/drop_b"
    assert verdict["reason"][2].as_py() == "review: c/review_a"
    assert verdict["reason"][5].as_py() == "kept"
    hits = {hit.rule: (hit.matched, hit.decided) for hit in judged.rule_hits(scores)}
    assert hits == {
        "review_a": (3, 1),
        "half_a": (2, 2),
        "tenth_b": (1, 0),
        "drop_b": (1, 1),
        "drop_a": (2, 1),
    }


def test_boolean_conditions_and_the_score_that_decided() -> None:
    when = {
        "any": [
            {"score": "a", "above": 0.5},
            {"all": [{"score": "b", "above": 0.2, "below": 0.4}, {"not": {"score": "c", "below": 0.5}}]},
        ]
    }
    verdict = policy(rule("r", when)).decide(
        table(a=[0.9, 0, 0, 0], b=[0, 0.3, 0.3, 0.4], c=[0, 0.5, 0.1, 0.9])
    )
    assert verdict["keep"].to_pylist() == [False, False, True, True]
    assert verdict["score"].to_pylist()[:2] == [pytest.approx(0.9), pytest.approx(0.3)]


def test_rule_that_met_nothing_is_reported() -> None:
    (hit,) = policy(rule("r", {"score": "a", "above": 0.5})).rule_hits(table(a=[0.1, 0.2]))
    assert (hit.rule, hit.matched, hit.decided) == ("r", 0, 0)


def test_no_rules_keep_everything() -> None:
    assert policy().decide(table(a=[0.1, 0.2]))["keep"].to_pylist() == [True, True]


def test_failed_rows_are_not_kept_and_say_why() -> None:
    scores = table(a=[0.1, None, None, 0.9])
    status = pa.array(["success", "failed_to_download", None, "success"])
    judged = policy(rule("r", {"score": "a", "above": 0.5}))
    verdict = judged.decide(scores.append_column("status", status))
    assert verdict["keep"].to_pylist() == [True, False, False, False]
    assert verdict["reason"].to_pylist() == [
        "kept",
        "failed: failed_to_download",
        "failed: unknown",
        "drop: c/r",
    ]
    assert verdict["rule"].to_pylist() == [None, None, None, "r"]
    assert verdict["weight"].to_pylist() == [1, 0, 0, 0]


def test_missing_values_and_unknown_scores_are_refused() -> None:
    judged = policy(rule("r", {"any": [{"score": "explicit_imag", "above": 0.5}]}))
    with pytest.raises(
        PolicyError,
        match=r"rules\[0\].when.any\[0\].score: unknown score 'explicit_imag' .*'explicit_image'",
    ):
        judged.decide(table(explicit_image=[0.1]))
    with pytest.raises(PolicyError, match=r"score 'a' has no value at key '01' \(1 rows\)"):
        policy(rule("r", {"score": "a", "above": 0.5})).decide(table(a=[0.1, None]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rulez": []}, r"rulez: unknown key \(did you mean 'rules'\?\)"),
        ({"rules": [rule("r", {"scroe": "a", "above": 1})]}, r"rules\[0\].when.scroe: .*'score'"),
        (
            {"rules": [rule("r", {"score": "a"})]},
            r"rules\[0\].when: expected exactly one form: ",
        ),
        ({"rules": [rule("r", {"score": "a", "above": 1, "any": []})]}, r"rules\[0\].when"),
        (
            {"rules": [rule("r", {"score": "a", "above": 2, "below": 1})]},
            r"nothing lies above 2.0 and below 1.0",
        ),
        ({"rules": [rule("r", {"score": "a", "above": "x"})]}, r"rules\[0\].when.above: .*given 'x'"),
        (
            {"rules": [rule("r", {"score": "a", "above": 1}, action="drp")]},
            r"rules\[0\].action: .*'drop'.*'drp'",
        ),
        (
            {"rules": [rule("r", {"score": "a", "above": 1}, weight=2)]},
            r"rules\[0\]: weight: expected with action",
        ),
        ({"rules": [rule("r", {"score": "a", "above": 1})] * 2}, r"names must differ; given twice: r"),
        ({"schema_version": 2}, r"schema_version: Input should be 1; given 2"),
    ],
)
def test_invalid_policies_name_file_place_and_remedy(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    import yaml

    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump({**HEAD, "rules": [], **change}))
    with pytest.raises(PolicyError, match=message) as error:
        Policy.from_file(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["rules: [", "- a list", ""])
def test_files_that_hold_no_policy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=r"broken.yaml: "):
        Policy.from_file(path)


def test_demo_policy_reads_declared_scores_within_their_ranges() -> None:
    demo = Policy.from_file(DEMO)
    shipped = [name for name in SCORERS if name != "embedding_classifier"]  # that one is fitted by its user
    specs = [spec for name in shipped for spec in load_scorer(name).specs]
    demo.check_specs(specs)
    assert Policy.from_mapping(demo.to_dict(), origin="again") == demo
    with pytest.raises(PolicyError, match=r"no value of 'explicit_image' meets this bound; its range"):
        policy(rule("r", {"score": "explicit_image", "above": 1.0})).check_specs(specs)


def test_threshold_at_a_quantile_drops_that_share() -> None:
    """A rule that meets nothing in a harmless corpus works once its threshold lies among the scores."""
    values = np.random.default_rng(0).random(1000).astype(np.float32)
    moved = policy(rule("explicit", {"score": "a", "above": float(np.quantile(values, 0.9))}))
    assert moved.decide(table(a=values.tolist()))["keep"].to_pylist().count(False) == 100
