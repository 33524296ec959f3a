"""Refusing early: bad input is told in one line per problem, before any work, and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class Refusal(Exception):
    """Input that cannot be worked with; `problems` holds one clear line each."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class StepFailed(Exception):
    """A step that raised; the message is one line and names the file that holds the traceback."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` with the nearest known name, or nothing where none is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
