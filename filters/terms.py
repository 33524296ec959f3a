"""Terms of captions that a filter may shift (people, occupations, places, religions), from a YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Form = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]


class TermsError(ValueError):
    """A file of terms that cannot be used; one line that names the file and the place."""


class Term(NamedTuple):
    """`name` stands for any of its `forms`."""

    group: str
    name: str
    forms: tuple[str, ...]


class Terms(BaseModel):
    """Group -> term -> the words and phrases that count as it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[1]
    groups: Mapping[str, Mapping[str, Annotated[tuple[Form, ...], Field(min_length=1)]]]

    @classmethod
    def from_file(cls, path: Path | str) -> Terms:
        """Raises TermsError naming file, place, what was given and what is expected."""
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            return cls.model_validate(data)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise TermsError(f"{path}: cannot be read as YAML: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            given = "" if first["type"] == "missing" else f", got {first['input']!r}"
            raise TermsError(
                f"{path}: {place}: {first['msg']}{given}; expected schema_version: 1 and groups: "
                "{group: {term: [form, ...]}}"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what a digest is taken of."""
        return self.model_dump(mode="json")

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def each(self) -> Iterator[Term]:
        """All terms in the file's order."""
        for group, terms in self.groups.items():
            for name, forms in terms.items():
                yield Term(group, name, forms)

    def find(self, captions: pa.ChunkedArray | pa.Array) -> Iterator[tuple[Term, Bool[np.ndarray, " n"]]]:
        """Each term with the captions that hold a form of it as whole words; a null caption holds none.

        Words may be parted by any run of what is neither letter nor digit ("old-man", "old   man").
        """
        normal = pc.fill_null(pc.utf8_normalize(captions.cast(pa.string()), "NFC"), "")
        # Most captions hold no term at all: one pass finds those that are worth a look for each.
        worth = pc.match_substring_regex(normal, _pattern([f for t in self.each() for f in t.forms]))
        rows = np.flatnonzero(np.asarray(worth))
        few = normal.take(pa.array(rows))
        for term in self.each():
            found = np.zeros(len(normal), dtype=bool)
            found[rows] = np.asarray(pc.match_substring_regex(few, _pattern(list(term.forms))))
            yield term, found


def _pattern(forms: list[str]) -> str:
    """An RE2 pattern.  Its `\\b` knows ASCII only, so borders of words are spelt out."""
    other = r"[^\pL\pN]"
    phrases = [f"{other}+".join(map(re.escape, form.split())) for form in forms]
    return f"(?i)(?:^|{other})(?:{'|'.join(phrases)})(?:$|{other})"
