"""Conditions of a policy over score columns: ``{score, above|below}``, ``{any}``, ``{all}``, ``{not}``."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMS = "{score, above}, {score, below}, {score, above, below}, {any: [...]}, {all: [...]} or {not: ...}"


class Outcome(NamedTuple):
    """Rows on which a condition holds, and the score that decided on each row."""

    holds: Bool[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]


class Condition(BaseModel):
    """One node of a condition.  Bounds are strict; with both, the score lies between them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    score: str | None = None
    above: float | None = Field(default=None, allow_inf_nan=False)
    below: float | None = Field(default=None, allow_inf_nan=False)
    any: list["Condition"] | None = Field(default=None, min_length=1)
    all: list["Condition"] | None = Field(default=None, min_length=1)
    # "not" is no Python name.
    not_: "Condition | None" = Field(default=None, alias="not")

    @model_validator(mode="after")
    def _one_form(self) -> "Condition":
        given = [name for name in ("score", "any", "all", "not_") if getattr(self, name) is not None]
        bounded = self.above is not None or self.below is not None
        if len(given) != 1 or bounded != (self.score is not None):
            raise ValueError(f"expected exactly one form: {FORMS}")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"nothing lies above {self.above} and below {self.below}")
        return self

    def leaves(self, path: str) -> Iterator[tuple[str, "Condition"]]:
        """Every score comparison with its path, for error messages."""
        if self.score is not None:
            yield path, self
        for name, children in (("any", self.any), ("all", self.all)):
            for i, child in enumerate(children or []):
                yield from child.leaves(f"{path}.{name}[{i}]")
        if self.not_ is not None:
            yield from self.not_.leaves(f"{path}.not")

    def evaluate(self, columns: Mapping[str, Float[np.ndarray, " n"]]) -> Outcome:
        """Vectorised over rows.

        The deciding score is that of the first part of an ``any`` that holds, of the first part of an
        ``all``, and of what a ``not`` negates.
        """
        if self.score is not None:
            return self._compare(columns[self.score])
        if self.not_ is not None:
            inner = self.not_.evaluate(columns)
            return Outcome(~inner.holds, inner.score)
        outcomes = [part.evaluate(columns) for part in self.any or self.all or []]
        if self.all is not None:
            return Outcome(np.logical_and.reduce([outcome.holds for outcome in outcomes]), outcomes[0].score)
        holds = np.logical_or.reduce([outcome.holds for outcome in outcomes])
        score = outcomes[-1].score
        for outcome in reversed(outcomes):
            score = np.where(outcome.holds, outcome.score, score)
        return Outcome(holds, score)

    def _compare(self, values: Float[np.ndarray, " n"]) -> Outcome:
        holds = np.ones(len(values), dtype=bool)
        if self.above is not None:
            holds &= values > self.above
        if self.below is not None:
            holds &= values < self.below
        return Outcome(holds, values)
