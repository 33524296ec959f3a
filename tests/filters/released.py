"""Weights that no package carries: tests that need them run where UNCLIP_WEIGHTS names their folder."""

from __future__ import annotations

import os

import pytest

from filters.weights import WEIGHTS_FOLDER

needs_released_weights = pytest.mark.skipif(
    WEIGHTS_FOLDER not in os.environ,
    reason=f"set {WEIGHTS_FOLDER} to a folder with the heads that LAION and Q16 publish (docs/filters.md)",
)
