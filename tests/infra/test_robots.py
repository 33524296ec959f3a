"""X-Robots-Tag, with and without an addressee."""

from __future__ import annotations

import pytest

from infra.robots import directive_against

DISALLOWED = frozenset({"noai", "noimageai"})


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (["noai"], "noai"),
        (["NoAI, nofollow"], "noai"),
        (["index", "noimageai"], "noimageai"),
        (["unclip: noai"], "noai"),
        (["otherbot: noai"], None),
        (["otherbot: nofollow, noai"], None),
        (["otherbot: noai, unclip: noai"], "noai"),
        (["max-image-preview: large, noai"], "noai"),
        (["nofollow"], None),
        ([], None),
    ],
)
def test_directives(headers: list[str], found: str | None) -> None:
    assert directive_against(headers, DISALLOWED, "unclip") == found
