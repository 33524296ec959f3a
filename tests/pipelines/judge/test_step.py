"""Verdicts: every input row gets one, for the right reason, and the drops arrive at the training stream."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from filters.policy import Policy, PolicyError
from infra.store import Artifact
from pipelines.aligned import MisalignedError, read_metadata, read_table, shard_names
from pipelines.judge.step import Judge, JudgeConfig
from pipelines.judge.verdict import Judged, judge_rows
from pipelines.train.index import build_index
from pipelines.train.stream import Stream
from tests import annotated
from tests.small_crawl import run_step
from tests.tiny import tiny_corpus


@pytest.fixture(scope="module")
def inputs(tiny_root: Path) -> dict[str, Artifact]:
    corpus = annotated.curation_corpus(tiny_root)
    annotation = annotated.annotate(tiny_root, corpus)
    clusters = annotated.deduplicate(tiny_root, annotation, semantic=None)
    return {
        "corpus": corpus,
        "annotation": annotation,
        "clusters": clusters,
        "truth": annotated.truth(tiny_root),
    }


def judge(root: Path, inputs: dict[str, Artifact], **config: Any) -> Artifact:
    wired = JudgeConfig(corpus="c", annotation="a", clusters="d", truth="t", **config)
    return run_step(root, Judge(), wired, inputs)


def rows_of(verdict: Artifact) -> dict[str, dict[str, Any]]:
    tables = [read_table(verdict, shard) for shard in shard_names(verdict)]
    return {row["key"]: row for row in pa.concat_tables(tables).to_pylist()}


def explicit_policy(folder: Path, threshold: float) -> str:
    rule = {"name": "explicit", "category": "sexual", "action": "drop"}
    rule |= {"when": {"score": "explicit_image", "above": threshold}}  # type: ignore[dict-item]
    policy = {"schema_version": 1, "name": "moved", "version": 1, "owner": "test", "rules": [rule]}
    path = folder / "moved.yaml"
    path.write_text(yaml.safe_dump(policy))
    return str(path)


def test_every_input_row_has_one_verdict(tiny_root: Path, inputs: dict[str, Artifact]) -> None:
    verdict = judge(tiny_root, inputs)
    rows = rows_of(verdict)
    assert sorted(rows) == [annotated.key(row) for row in range(annotated.COUNT)]
    ends = {name: rows[annotated.key(getattr(annotated, name))] for name in ("FAILED", "DAMAGED", "PLANTED")}
    assert (ends["FAILED"]["reason"], ends["FAILED"]["rule"]) == ("failed: gone", "acquire")
    assert (ends["DAMAGED"]["reason"], ends["DAMAGED"]["rule"]) == ("failed: damaged_image", "annotate")
    assert ends["PLANTED"]["category"] == "violent" and ends["PLANTED"]["score"] > 0
    kept = {key for key, row in rows.items() if row["keep"]}
    assert all(rows[key]["split"] in ("train", "validation", "test") for key in kept)
    assert all(row["split"] == "" and row["reason"] for key, row in rows.items() if key not in kept)
    assert verdict.rows.total == 24 and verdict.rows.failed == 2 and verdict.rows.kept == len(kept)
    assert sum(verdict.rows.reasons.values()) == 24 - len(kept)


def test_next_copy_is_kept_when_the_best_is_dropped(tiny_root: Path, inputs: dict[str, Artifact]) -> None:
    """The planted caption's picture is there with a harmless one too; a plain copy names its original."""
    rows = rows_of(judge(tiny_root, inputs))
    assert not rows[annotated.key(annotated.PLANTED)]["keep"]
    assert rows[annotated.key(annotated.TWIN)]["keep"]
    copy = rows[annotated.key(annotated.COPY)]
    assert (copy["keep"], copy["reason"], copy["duplicate_of"]) == (
        False,
        "duplicate: exact",
        annotated.key(0),
    )
    kept = rows_of(judge(tiny_root, inputs, keep_duplicates=True))[annotated.key(annotated.COPY)]
    assert kept["keep"] and kept["duplicate_of"] == annotated.key(0)
    original = rows_of(judge(tiny_root, inputs, keep_duplicates=True))[annotated.key(0)]
    assert kept["split"] == original["split"]


def test_a_moved_threshold_arrives_at_the_training_stream(
    tiny_root: Path, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    """No picture here is explicit: the threshold moves to a quantile, and the drops are followed."""
    annotation = inputs["annotation"]
    metadata = pa.concat_tables([read_metadata(annotation, shard) for shard in shard_names(annotation)])
    scored = metadata.filter(pa.compute.is_valid(metadata["explicit_image"]))
    scores = scored["explicit_image"].to_numpy()
    threshold = float(np.quantile(scores, 0.6))
    above = {key for key, s in zip(scored["key"].to_pylist(), scores, strict=True) if s > threshold}
    assert len(above) >= 5
    policy = explicit_policy(tmp_path, threshold)
    verdict = judge(
        tiny_root,
        inputs,
        policy=policy,
        keep_duplicates=True,
        split={"train": 1.0, "validation": 0.0, "test": 0.0},
    )
    rows = rows_of(verdict)
    assert {key for key, row in rows.items() if row["rule"] == "explicit"} == above
    assert verdict.rows.reasons["drop: sexual/explicit"] == len(above)

    index = tmp_path / "index.arrow"
    build_index(index, inputs["corpus"], annotation, verdict)
    stream = Stream(index, split="train", seed=0)
    streamed = set(stream.read_in_key_order(0, len(stream)).keys)
    assert streamed == {key for key, row in rows.items() if row["keep"]}
    assert not streamed & above and len(streamed) == 22 - len(above)


def test_report_accounts_for_every_row(tiny_root: Path, inputs: dict[str, Artifact]) -> None:
    note = "No explicit image is in this corpus: <its> recall is unknown."
    verdict = judge(tiny_root, inputs, notes=(note,))
    report = json.loads((verdict.path / "report.json").read_bytes())
    assert sum(end["rows"] for end in report["ended"]) == 24
    assert [stage["rows"] for stage in report["funnel"]][:3] == [24, 23, 22]
    assert report["funnel"][-1]["rows"] == verdict.rows.kept
    assert "explicit_image" in report["rules_that_met_nothing"]
    violent = report["planted"]["open"]["violent"]
    assert (violent["dropped"], violent["planted"], violent["missed"]) == (1, 1, [])
    assert report["benign"]["captions"] == 21
    assert report["duplicates"]["dropped_by_method"]["exact"] == 1
    page = (verdict.path / "report.html").read_text()
    assert "No explicit image is in this corpus: &lt;its&gt; recall is unknown." in page
    assert "Met nothing: " in page and "<svg" in page
    # Self-contained, and readable where scripts, forms, storage and other windows are blocked.
    assert not re.search(r'(src|href)="(?!data:)|<(script|form|iframe|link)|url\(|target=|\son\w+=', page)
    for histogram in report["scores"]:
        assert sum(histogram["counts"]) == histogram["rows"] == 22


def test_mlflows_viewer_gives_a_page_scripts_at_most() -> None:
    """MLflow shows an HTML artifact in a sandboxed iframe; the report must not need more."""
    viewer = re.compile(r'mlflow-artifact-html-view.{0,400}?sandbox:"([^"]*)"')
    bundle = Path(importlib.util.find_spec("mlflow").origin).parent / "server/js/build/static/js"
    found = {match for path in bundle.glob("*.js") for match in viewer.findall(path.read_text())}
    assert found == {"allow-scripts"}


def test_report_shows_what_goes_together(
    tiny_root: Path, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    """Rules that overlap, the part of each category, clusters, terms, and pictures behind a blur."""
    scores = {}
    for shard in shard_names(inputs["annotation"]):
        for row in read_metadata(inputs["annotation"], shard).to_pylist():
            scores[row["key"]] = (row["caption_length"] or 0, row["caption_words"] or 0)
    middle = float(np.median([length for length, _ in scores.values()]))
    rules = [
        {"name": "long", "category": "caption", "action": "drop"},
        {"name": "wordy", "category": "style", "action": "review"},
        {"name": "never", "category": "style", "action": "drop"},
    ]
    bounds = [("caption_length", middle), ("caption_words", 1), ("caption_words", 99)]
    for rule, (score, above) in zip(rules, bounds, strict=True):
        rule["when"] = {"score": score, "above": above}  # type: ignore[assignment]
    path = tmp_path / "two.yaml"
    path.write_text(
        yaml.safe_dump({"schema_version": 1, "name": "two", "version": 1, "owner": "t", "rules": rules})
    )
    verdict = judge(tiny_root, inputs, policy=str(path), examples=2)
    report = json.loads((verdict.path / "report.json").read_bytes())
    rows = rows_of(verdict)
    long = {key for key, (length, _) in scores.items() if length > middle}
    wordy = {key for key, (_, words) in scores.items() if words > 1}
    assert long & wordy and wordy - long
    (pair,) = report["overlap"]
    assert pair == {"rules": ["long", "wordy"], "both": len(long & wordy), "either": len(long | wordy)}
    of = {row["category"]: row for row in report["categories"]}
    assert of["caption"]["dropped"] == len(long) and of["style"]["review"] == len(wordy - long)
    assert (of["style"]["met"], of["style"]["met_by_no_other"]) == (len(wordy), len(wordy - long))
    duplicates = report["duplicates"]
    assert sum(row["size"] * row["clusters"] for row in duplicates["sizes"]) == duplicates["samples"] >= 2
    dropped = sum(row["category"] == "duplicate" and not row["keep"] for row in rows.values())
    assert duplicates["dropped"] == sum(duplicates["dropped_by_method"].values()) == dropped
    for reason, samples in report["examples"].items():
        assert 1 <= len(samples) <= 2
        assert all(rows[sample["key"]]["reason"] == reason for sample in samples)
    assert {row["group"] for row in report["terms"]} <= {"people", "occupations", "places", "religions"}
    page = (verdict.path / "report.html").read_text()
    shown = {sample["key"] for samples in report["examples"].values() for sample in samples}
    assert all(f'alt="sample {key}"' in page for key in shown)
    assert "filter: blur(" in page and 'src="data:image/jpeg;base64,' in page
    assert "data:image" not in (verdict.path / "report.json").read_text()


def test_captions_are_those_that_were_judged(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """The corpus' Parquet has another caption: reports go by the one beside the image."""
    shutil.copytree(inputs["corpus"].path, tmp_path / "corpus")
    for path in (tmp_path / "corpus").glob("*.parquet"):
        table = pq.read_table(path)
        place = table.column_names.index("caption")
        pq.write_table(table.set_column(place, "caption", pa.array(["unjudged"] * len(table))), path)
    corpus = Artifact.open(tmp_path / "corpus")
    fractions = {"train": 1.0, "validation": 0.0, "test": 0.0}

    def judged(policy: Policy) -> Judged:
        others = (inputs["annotation"], inputs["clusters"])
        return judge_rows(corpus, *others, policy, keep_duplicates=False, fractions=fractions, seed=0)

    policy = Policy.from_file(explicit_policy(tmp_path, 0.5))
    captions = judged(policy).scores["caption"].to_pylist()
    assert captions[annotated.PLANTED] == annotated.planted_caption()["caption"]
    assert [row for row, caption in enumerate(captions) if caption == "unjudged"] == [annotated.FAILED]
    data = policy.to_dict()
    data["rules"][0]["when"]["score"] = "acquired"
    with pytest.raises(PolicyError, match="unknown score 'acquired'"):
        judged(Policy.from_mapping(data, "test"))


def test_policy_decides_the_address(tmp_path: Path) -> None:
    config = JudgeConfig(corpus="c", annotation="a", clusters="d", policy=explicit_policy(tmp_path, 0.5))
    before = Judge().identity(config)
    explicit_policy(tmp_path, 0.6)
    assert Judge().identity(config) != before
    (tmp_path / "terms.yaml").write_text("{schema_version: 1, groups: {people: {woman: [woman]}}}")
    other = config.model_copy(update={"terms": str(tmp_path / "terms.yaml")})
    assert Judge().identity(other) != Judge().identity(config)


def test_problems_are_told_before_and_at_the_run(
    tiny_root: Path, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    config = {"corpus": "c", "annotation": "a", "clusters": "d"}
    (missing,) = Judge().check(JudgeConfig(**config, policy="no.yaml"))
    assert "'no.yaml' not found" in missing
    (missing,) = Judge().check(JudgeConfig(**config, terms="no.yaml"))
    assert "'no.yaml' not found" in missing
    (uneven,) = Judge().check(JudgeConfig(**config, split={"train": 0.5, "validation": 0.1, "test": 0.1}))
    assert "sum to 1, got 0.7" in uneven
    path = Path(explicit_policy(tmp_path, 0.5))
    path.write_text(path.read_text().replace("explicit_image", "explicit_imag"))
    with pytest.raises(PolicyError, match="did you mean 'explicit_image'"):
        judge(tiny_root, inputs, policy=str(path))


def test_artifacts_of_other_samples_are_refused(tiny_root: Path, inputs: dict[str, Artifact]) -> None:
    with pytest.raises(MisalignedError, match=r"corpus has 4 shards and annotation 3; .* 00003"):
        judge(tiny_root, inputs | {"corpus": tiny_corpus(tiny_root)})
    with pytest.raises(MisalignedError, match="annotation, shard 00000: "):
        judge(tiny_root, inputs | {"corpus": tiny_corpus(tiny_root, count=30, size=64)})
