"""`unclip label`: page, decisions, labels and back; what the page's own script downloads is what is read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import rankdata

from filters.labels import Label, labels_csv, read_labels
from infra.forget import ForgetList, ForgetRecord, write_record
from infra.store import Artifact
from pipelines.label.queue import Asked, build_queue
from pipelines.scores import read_scores, worse_end
from tests.scored import DISPUTED, keys_of, positive, scored_annotation
from tests.tiny import tiny_corpus
from workflows.cli.main import run_cli


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("label")
    scored_annotation(folder, tiny_corpus(folder))
    return folder


@pytest.fixture(scope="module")
def keys(root: Path) -> list[str]:
    (folder,) = (root / "store/annotation").iterdir()
    return keys_of(Artifact.open(folder))


class Articles(HTMLParser):
    """What a browser would find: the samples' data attributes, and everything that would load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[dict[str, str | None]] = []
        self.sources: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "article":
            self.rows.append(found)
        self.sources += [found[name] for name in ("src", "href") if name in found]


def page_of(root: Path, out: Path, *arguments: str) -> Articles:
    command = ["label", "--root", str(root), "--out", str(out), "--category", "violent"]
    assert run_cli([*command, *arguments]) == 0
    return Articles(out.read_text())


def decisions(page: Articles, keys: list[str]) -> list[Label]:
    """What a person who knows the truth would answer."""
    return [
        Label(
            key,
            str(row["data-category"]),
            positive(keys.index(key)),
            str(row["data-chosen-by"]),
            str(row["data-sha256"]),
        )
        for row in page.rows
        for key in [str(row["data-key"])]
    ]


def test_round_trip_from_page_to_calibration(
    root: Path, keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.csv"
    page = page_of(root, tmp_path / "queue.html", "-n", "20")
    assert len(page.rows) == len({row["data-key"] for row in page.rows}) == 20
    (tmp_path / "decisions.csv").write_text(labels_csv(decisions(page, keys)))
    command = [
        "label",
        "--root",
        str(root),
        "--labels",
        str(labels),
        "--read",
        str(tmp_path / "decisions.csv"),
    ]
    capsys.readouterr()
    assert run_cli(command) == 0
    assert "20 labels added, 0 changed; now violent: " in capsys.readouterr().out
    assert sorted(read_labels(labels)) == sorted(decisions(page, keys))
    before = labels.read_bytes()
    assert run_cli(command) == 0  # again: nothing changes
    assert labels.read_bytes() == before

    rest = page_of(root, tmp_path / "rest.html", "-n", "99", "--labels", str(labels))
    assert {row["data-key"] for row in rest.rows} == set(keys) - {row["data-key"] for row in page.rows}
    (tmp_path / "decisions.csv").write_text(labels_csv(decisions(rest, keys)))
    assert run_cli(command) == 0
    capsys.readouterr()
    calibrate = ["calibrate", "--root", str(root), "--labels", str(labels), "--score", "alarm", "--json"]
    assert run_cli([*calibrate, "--recall", "0.7"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recall"]["n"] == 12 and report["warnings"] == []
    again = ["label", "--root", str(root), "--out", str(tmp_path / "none.html"), "--labels", str(labels)]
    assert run_cli([*again, "--category", "violent"]) == 2
    assert "nothing to label" in capsys.readouterr().err


def test_strategies_put_the_telling_samples_first(
    root: Path, keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "queue.html"
    by_score = ["--score", "alarm", "--threshold", "0.72"]
    uncertain = page_of(root, out, "-n", "1", "--strategy", "uncertain", *by_score)
    assert keys.index(str(uncertain.rows[0]["data-key"])) in (12, 15)  # .70 and .725
    both = ["--score", "alarm", "--score", "opinion"]
    disputed = page_of(root, out, "-n", "1", "--strategy", "disagreement", *both)
    assert disputed.rows[0]["data-key"] == keys[DISPUTED]
    # A missed positive: what lies near it, on the other side of the origin, is positive too.
    labels = tmp_path / "labels.csv"
    labels.write_text(labels_csv([Label(keys[0], "violent", True), Label(keys[1], "violent", False)]))
    near = page_of(root, out, "-n", "5", "--strategy", "near-misses", *by_score, "--labels", str(labels))
    assert all(positive(keys.index(str(row["data-key"]))) for row in near.rows)
    mixed = page_of(root, out, "-n", "4", "--strategy", "random", "--strategy", "uncertain", *by_score)
    assert [row["data-chosen-by"] for row in mixed.rows] == ["random", "uncertain"] * 2
    assert "random samples leave out what other strategies picked" in capsys.readouterr().out
    page_of(root, out, "-n", "4", "--labels", str(labels))
    assert "warning" not in capsys.readouterr().out, "nothing was picked so far"
    labels.write_text(labels_csv([Label(keys[0], "violent", True, "uncertain")]))
    page_of(root, out, "-n", "4", "--labels", str(labels))
    assert "draw them first" in capsys.readouterr().out
    page_of(root, out, "-n", "4", "--strategy", "random", "--strategy", "uncertain", *by_score)
    first = out.read_bytes()
    page_of(root, out, "-n", "4", "--strategy", "random", "--strategy", "uncertain", *by_score)
    assert out.read_bytes() == first


def test_page_loads_nothing_blurs_pictures_and_escapes_captions(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path, count=10)
    annotation = scored_annotation(tmp_path, corpus)
    evil = '</article><script>alert("x")</script>'
    path = annotation.path / "metadata/metadata_00000.parquet"
    table = pq.read_table(path)
    column = table.schema.get_field_index("caption")
    pq.write_table(table.set_column(column, "caption", [[evil] * len(table)]), path)
    page = page_of(tmp_path, tmp_path / "queue.html")
    text = (tmp_path / "queue.html").read_text()
    assert len(page.rows) == 9 and evil not in text and "&lt;/article&gt;&lt;script&gt;" in text
    assert len(page.sources) == 9 and all(str(s).startswith("data:image/jpeg;base64,") for s in page.sources)
    assert "filter: blur(" in text and not re.search(r"https?://", text)


@pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's script, which needs node")
def test_what_the_page_downloads_is_what_is_read(root: Path, keys: list[str], tmp_path: Path) -> None:
    """The page's own script, over a stand-in for the browser's document."""
    page_of(root, tmp_path / "queue.html", "-n", "3")
    (script,) = re.findall(r"<script>(.*?)</script>", (tmp_path / "queue.html").read_text(), re.S)
    rows = [
        [keys[0], "violent", "1", "random", "ab"],
        [keys[1], "violent", "", "random", "cd"],
        [keys[2], 'a,"b"\n', "0", "x", "ef"],
    ]
    stand_in = """
    const make = ([key, category, chosen, by, sha256]) => ({dataset: {key, category, chosenBy: by, sha256},
      querySelector: () => ({value: chosen})});
    global.document = {querySelectorAll: () => ROWS.map(make), addEventListener: () => {},
      getElementById: () => ({addEventListener: () => {}})};
    global.window = {addEventListener: () => {}};
    """.replace("ROWS", json.dumps(rows))
    program = f"{stand_in}{script}\nprocess.stdout.write(csv(decisions()));"
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    (tmp_path / "decisions.csv").write_text(done.stdout)
    assert read_labels(tmp_path / "decisions.csv") == [
        Label(keys[0], "violent", True, "random", "ab"),
        Label(keys[2], 'a,"b"', False, "x", "ef"),
    ]


def test_forgotten_samples_are_not_shown(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path, count=10)
    annotation = scored_annotation(tmp_path, corpus)
    digest = pq.read_table(annotation.path / "metadata/metadata_00000.parquet")["sha256"][0].as_py()
    store = tmp_path / "store"
    before = page_of(tmp_path, tmp_path / "queue.html").rows
    record = ForgetRecord(
        number=1,
        when="-",
        who="-",
        reason="-",
        list_sha256="-",
        purge=False,
        urls=[],
        images=[digest],
        rows={},
        not_found=[],
    )
    write_record(store, record)
    assert ForgetList.open(store).images == {digest}
    after = page_of(tmp_path, tmp_path / "queue.html").rows
    assert len(before) == 9 and len(after) == 8
    assert keys_of(annotation)[0] not in {row["data-key"] for row in after}


def test_what_is_missing_or_unknown_is_one_line(
    root: Path, keys: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "queue.html")

    def refused(*arguments: str) -> str:
        assert run_cli(["label", "--root", str(root), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "either --out PAGE or --read" in refused()
    assert "add --category" in refused("--out", out)
    assert "did you mean 'violent'" in refused("--out", out, "--category", "violet")
    given = ["--out", out, "--category", "violent"]
    assert "needs a score and its threshold" in refused(*given, "--strategy", "uncertain")
    assert "two scores or more" in refused(*given, "--strategy", "disagreement", "--score", "alarm")
    missed = refused(*given, "--strategy", "near-misses", "--score", "alarm", "--threshold", "0.5")
    assert "no labelled positive is missed" in missed
    assert "unknown score 'alrm'" in refused(*given, "--score", "alrm")
    decided = tmp_path / "decisions.csv"
    decided.write_text(f"key,category,label\n{keys[0]},violent,maybe\n")
    assert "add --labels" in refused("--read", str(decided))
    labels = tmp_path / "labels.csv"
    decided.write_text(f"key,category,label,sha256\n{keys[0]},violent,1,{'0' * 64}\n")
    of_another_root = refused("--read", str(decided), "--labels", str(labels))
    assert f"line 2: key '{keys[0]}' is another picture here" in of_another_root
    decided.write_text(f"key,category,label\n{keys[0]},violent,maybe\n")
    assert "decisions.csv, line 2: expected label 1" in refused(
        "--read", str(decided), "--labels", str(labels)
    )
    assert not labels.exists()


def test_disagreement_goes_from_the_better_to_the_declared_worse_end(tmp_path: Path) -> None:
    """`image_text_cosine` is worse when low: where it falls as `explicit_image` rises, the two agree."""
    annotation = scored_annotation(
        tmp_path,
        tiny_corpus(tmp_path),
        renamed={"alarm": "explicit_image", "opinion": "image_text_cosine"},
        scorers=("explicit_image", "embedding_similarity", "image_geometry", "caption_language"),
    )
    assert worse_end(annotation, "image_text_cosine") == "low"
    assert worse_end(annotation, "image_width") == "neither"
    assert worse_end(annotation, "language_en") == "low", "declared by the scorer as it was configured"
    assert worse_end(annotation, "alarm") is None
    samples = read_scores(annotation, ["explicit_image", "image_text_cosine"])
    asked = Asked(
        category="violent",
        strategies=["disagreement"],
        scores=["explicit_image", "image_text_cosine"],
        size=len(samples.keys),
    )
    first = build_queue(samples, [], asked)[0]
    explicit, cosine = samples.score("explicit_image"), samples.score("image_text_cosine")
    # `opinion` copies `alarm`, so as a cosine it contradicts it: most at the ends, least at the disputed row.
    row = samples.keys.index(first.key)
    apart = np.abs(rankdata(explicit) - rankdata(-cosine))
    assert apart[row] == apart.max() > apart[DISPUTED]
    with pytest.raises(ValueError, match="neither end of 'image_width' is worse"):
        build_queue(samples, [], replace(asked, scores=["explicit_image", "image_width"]))
