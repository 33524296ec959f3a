"""Guarantee 1: a step whose output changed has another version, or its old results would be found again."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from tests.golden.contents import RECORD, contents

HOW = "run `python -m tests.golden.contents` and commit what it records"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="image encoders round differently elsewhere")
def test_output_changes_only_with_the_version(tiny_root: Path) -> None:
    recorded = json.loads(RECORD.read_text())
    found = contents(tiny_root)
    assert found.keys() == recorded.keys()
    for kind, now in found.items():
        before = recorded[kind]
        changed = now["content"] != before["content"]
        forgotten = changed and now["version"] == before["version"]
        assert not forgotten, f"{kind} makes other bytes than before: raise its version, {HOW}"
        assert now == before, f"{kind}: the record is of version {before['version']}; {HOW}"
