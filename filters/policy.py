"""A policy file: rules over scores that drop, hold for review or down-weight samples.

    schema_version: 1
    name: demo
    version: 1
    owner: data team
    rules:
      - {name: explicit_image, category: sexual, action: drop, when: {score: explicit_image, above: 0.8}}

The first drop rule in file order that holds decides; else the first review rule; else the weights of all
weight rules that hold are multiplied.  Judging is arithmetic on stored scores: a changed threshold recomputes
no score.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from filters.conditions import Condition
from filters.registry import nearest
from filters.scorer import ScoreSpec

SUCCESS = "success"
_PRECEDENCE = ("drop", "review", "weight")
VERDICT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("rule", pa.string()),
        pa.field("category", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("weight", pa.float32(), nullable=False),
    ]
)


class PolicyError(ValueError):
    """The policy file, or the scores it is applied to, cannot be used; the message says where and why."""


class Rule(BaseModel):
    """One rule; ``weight`` belongs to the action of that name and to no other."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[a-z0-9_]+$")
    category: str
    action: Literal["drop", "review", "weight"]
    weight: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    when: Condition

    @model_validator(mode="after")
    def _weight_fits_action(self) -> "Rule":
        if (self.action == "weight") != (self.weight is not None):
            raise ValueError("weight: expected with action 'weight' and only there")
        return self


class RuleHits(NamedTuple):
    """matched: rows on which the rule holds; decided: rows that got their verdict from it."""

    rule: str
    category: str
    action: str
    matched: int
    decided: int


class _Judgement(NamedTuple):
    deciding: np.ndarray  # index of the deciding rule, -1 for none
    score: np.ndarray
    weight: np.ndarray
    matched: list[int]


class Policy(BaseModel):
    """A validated policy; see the module's docstring."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[1]
    name: str
    version: int = Field(ge=1)
    owner: str
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _distinct_names(self) -> "Policy":
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"rules: names must differ; given twice: {', '.join(twice)}")
        return self

    @classmethod
    def from_file(cls, path: Path | str) -> "Policy":
        """Raises PolicyError naming file, place, what was given and what is allowed."""
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PolicyError(f"{path}: cannot be read as YAML: {error}") from error
        return cls.from_mapping(data, origin=str(path))

    @classmethod
    def from_mapping(cls, data: Any, origin: str) -> "Policy":
        """A policy from parsed YAML; ``origin`` names it in errors (PolicyError)."""
        if not isinstance(data, dict):
            raise PolicyError(f"{origin}: expected a mapping of {', '.join(cls.model_fields)}, got {data!r}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = "\n".join(_describe(problem) for problem in error.errors())
            raise PolicyError(f"{origin}: not a valid policy\n{lines}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_mapping` reads back; what a digest is taken of."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def score_names(self) -> tuple[str, ...]:
        """Names of all scores that the rules read, sorted."""
        return tuple(sorted({leaf.score for _, leaf in self._leaves() if leaf.score}))

    def check_specs(self, specs: Iterable[ScoreSpec]) -> None:
        """Refuses (PolicyError) scores nobody declares and bounds that no value of a score can meet."""
        known = {spec.name: spec for spec in specs}
        self.refuse_unknown(known)
        for path, leaf in self._leaves():
            spec = known[str(leaf.score)]
            above_all = leaf.above is not None and leaf.above >= spec.high
            below_all = leaf.below is not None and leaf.below <= spec.low
            if above_all or below_all:
                raise PolicyError(
                    f"policy {self.name!r}, {path}: no value of {spec.name!r} meets this bound; its range is "
                    f"[{spec.low}, {spec.high}]"
                )

    def decide(self, scores: pa.Table) -> pa.Table:
        """Verdict of each row (VERDICT_SCHEMA), in the order of ``scores``.

        scores: ``key`` and one float column per score; with a ``status`` column, rows that are not "success"
        are not kept, with reason ``failed: <status>``.  A row under review is not kept either: its reason
        sets it apart for people to look at, and a changed policy lets it through, not a label.
        Raises PolicyError for a score that is missing as a column, or is null or NaN on a row to be judged.
        """
        ok = _succeeded(scores)
        judged = self._judge(scores, ok)
        actions = np.array([rule.action for rule in self.rules] + ["keep"])[judged.deciding]
        keep = ok & ~np.isin(actions, ["drop", "review"])
        reasons = [f"{rule.action}: {rule.category}/{rule.name}" for rule in self.rules]
        # Index -1 (no rule) becomes the last entry.
        reason = _take([*reasons, "kept"], judged.deciding % (len(self.rules) + 1))
        if not ok.all():
            status = pc.fill_null(scores["status"].cast(pa.string()), "unknown")
            failed = pc.binary_join_element_wise("failed", status, ": ")
            reason = pc.if_else(pa.array(ok), reason, failed)
        undecided = judged.deciding < 0
        columns = [
            scores["key"].cast(pa.string()),
            pa.array(keep),
            reason,
            _take([rule.name for rule in self.rules], judged.deciding),
            _take([rule.category for rule in self.rules], judged.deciding),
            pa.array(judged.score, mask=undecided, type=pa.float32()),
            pa.array(np.where(keep, judged.weight, 0.0), type=pa.float32()),
        ]
        return pa.table(columns, schema=VERDICT_SCHEMA)

    def rule_hits(self, scores: pa.Table) -> list[RuleHits]:
        """What each rule met, in file order, rules that met nothing included; failed rows are not counted."""
        judged = self._judge(scores, _succeeded(scores))
        decided = np.bincount(judged.deciding[judged.deciding >= 0], minlength=len(self.rules))
        return [
            RuleHits(rule.name, rule.category, rule.action, matched, int(decided[i]))
            for i, (rule, matched) in enumerate(zip(self.rules, judged.matched, strict=True))
        ]

    def matches(self, scores: pa.Table) -> dict[str, Bool[np.ndarray, " n"]]:
        """Rows on which each rule holds, whichever rule decided; no failed row."""
        ok = _succeeded(scores)
        columns = self._columns(scores, ok)
        return {rule.name: rule.when.evaluate(columns).holds & ok for rule in self.rules}

    def _judge(self, scores: pa.Table, ok: Bool[np.ndarray, " n"]) -> _Judgement:
        columns = self._columns(scores, ok)
        deciding = np.full(len(scores), -1)
        score = np.full(len(scores), np.nan)
        weight = np.ones(len(scores))
        matched = [0] * len(self.rules)
        # Stable: file order within an action, and a drop before a review before a weight.
        for i in sorted(range(len(self.rules)), key=lambda i: _PRECEDENCE.index(self.rules[i].action)):
            outcome = self.rules[i].when.evaluate(columns)
            holds = outcome.holds & ok
            matched[i] = int(holds.sum())
            first = holds & (deciding < 0)
            deciding[first], score[first] = i, outcome.score[first]
            weight[holds] *= 1.0 if self.rules[i].weight is None else self.rules[i].weight
        return _Judgement(deciding, score, weight, matched)

    def _columns(self, scores: pa.Table, ok: Bool[np.ndarray, " n"]) -> dict[str, Float[np.ndarray, " n"]]:
        self.refuse_unknown(set(scores.column_names) - {"key", "status"})
        columns = {}
        for name in self.score_names():
            # A null of a row that failed is NaN here, and masked by ``ok`` everywhere.
            values = scores[name].cast(pa.float32()).to_numpy()
            bad = np.isnan(values) & ok
            if bad.any():
                key = scores["key"][int(np.argmax(bad))].as_py()
                raise PolicyError(
                    f"policy {self.name!r}: score {name!r} has no value at key {key!r} ({bad.sum()} rows); "
                    "annotate these rows with its scorer, or mark them as failed in the status column"
                )
            columns[name] = values
        return columns

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Refuses (PolicyError) a score that is not among the names ``known``."""
        names = sorted(known)
        for path, leaf in self._leaves():
            if leaf.score not in names:
                raise PolicyError(
                    f"policy {self.name!r}, {path}.score: unknown score {leaf.score!r}"
                    f"{nearest(str(leaf.score), names)}; known: {', '.join(names) or 'none'}"
                )

    def _leaves(self) -> Iterable[tuple[str, Condition]]:
        for i, rule in enumerate(self.rules):
            yield from rule.when.leaves(f"rules[{i}].when")


def _succeeded(scores: pa.Table) -> Bool[np.ndarray, " n"]:
    if "status" not in scores.column_names:
        return np.ones(len(scores), dtype=bool)
    return pc.fill_null(pc.equal(scores["status"], SUCCESS), False).to_numpy()


def _take(values: list[str], indices: np.ndarray) -> pa.Array:
    """values[index] per row, null where the index is negative; a dictionary makes 1 M rows quick."""
    positions = pa.array(indices, mask=indices < 0, type=pa.int32())
    return pa.DictionaryArray.from_arrays(positions, pa.array(values, pa.string())).cast(pa.string())


def _describe(problem: Mapping[str, Any]) -> str:
    """One line of a pydantic problem: path, what is wrong, what was given, the nearest allowed key."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    path = path.lstrip(".") or "policy"
    if problem["type"] == "extra_forbidden":
        allowed = _allowed_keys(path)
        return (
            f"  {path}: unknown key{nearest(str(problem['loc'][-1]), allowed)}; allowed: {', '.join(allowed)}"
        )
    message = re.sub(r"^Value error, ", "", problem["msg"])
    given = "" if problem["type"] == "missing" else f"; given {problem['input']!r}"
    return f"  {path}: {message}{given}"


def _allowed_keys(path: str) -> list[str]:
    if ".when" in path:
        return [field.alias or name for name, field in Condition.model_fields.items()]
    return list(Rule.model_fields if path.startswith("rules[") else Policy.model_fields)
