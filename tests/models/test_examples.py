"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import models

ROOM = Path(models.__path__[0])
MODULES = sorted(
    ".".join(path.relative_to(ROOM.parent).with_suffix("").parts)
    for path in ROOM.rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 0 and outcome.failed == 0


def test_every_manipulation_has_an_example() -> None:
    from models.cascade import UnCLIP
    from models.manipulator import Manipulator

    for method in ("vary", "interpolate", "text_diff", "principal"):
        assert ">>>" in (getattr(Manipulator, method).__doc__ or "")
    for method in ("generate", "inpaint"):
        assert ">>>" in (getattr(UnCLIP, method).__doc__ or "")
