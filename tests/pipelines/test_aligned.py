"""Artifacts that do not describe the same samples are refused, naming shard and first differing key."""

from __future__ import annotations

import pytest

from infra.store import Artifact
from pipelines.aligned import MisalignedError, encoder_identity, require_same_keys, require_same_shards


def test_same_corpus_passes(corpus: Artifact, annotation: Artifact, verdict: Artifact) -> None:
    assert require_same_shards(corpus, annotation, verdict) == ["00000", "00001", "00002", "00003"]
    assert encoder_identity(annotation)["name"] == "tiny"


def test_first_differing_key_is_named() -> None:
    with pytest.raises(MisalignedError, match="verdict, shard 00007: key 1 is 'c', expected 'b'"):
        require_same_keys("00007", ["a", "b"], ["a", "c"], "verdict")


def test_other_count_is_named() -> None:
    with pytest.raises(MisalignedError, match="verdict, shard 00007: 1 keys, expected 2"):
        require_same_keys("00007", ["a", "b"], ["a"], "verdict")
