"""A small classifier on embeddings of width 8, for tests that need its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from filters.classifier_fit import Kind, fit

ENCODER = {"name": "test", "dimension": 8}


def two_sides(n: int, seed: int = 0, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings, and which are positive: these lie, with some overlap, on the other side of the origin."""
    random = np.random.default_rng(seed)
    positive = random.random(n) < 0.4
    return np.where(positive[:, None], -0.6, 0.6) + random.normal(size=(n, width)), positive


def write_classifier(path: Path, kind: Kind = "logistic", n: int = 100) -> Path:
    embeddings, positive = two_sides(n)
    found = fit(embeddings, positive, np.arange(n), kind)
    facts = {"category": "violent", "encoder": ENCODER, "width": embeddings.shape[1]}
    path.write_bytes(found.classifier(facts).to_bytes())
    return path
