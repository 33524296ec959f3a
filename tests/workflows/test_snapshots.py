"""Retry, append and adopt on the command line; what a recipe takes afterwards.  Real Ray, real HTTP."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra.origin import Origin, Route, Site
from infra.store import Artifact, Rows
from pipelines.registry import STEPS
from pipelines.step import Context, Resources, Step, StepConfig, input_of
from tests.pipelines.adopt.test_adopt import write_shard
from tests.small_crawl import free_port
from workflows.cli.main import run_cli
from workflows.plan import make_plan
from workflows.recipe import load_recipe
from workflows.refusal import Refusal

ROWS = 10
FAILING = {"/1.png": Route(status=503), "/7.png": Route(hang=True), "/9.png": Route(status=404)}
RECIPE = """
schema_version: 1
name: crawl
steps:
  acquire:
    kind: acquire
    url_list: {folder}/urls.csv
    shard_size: 4
    fetch: {{idle_timeout_s: 0.5, retries: 0, allow_private: ["127.0.0.1:{port}"]}}
  sizes: {{kind: sizes, corpus: "${{steps.acquire}}"}}
"""


class SizesConfig(StepConfig):
    corpus: str = input_of("corpus")


class Sizes(Step[SizesConfig, Resources]):
    """What follows an acquisition: says how many samples there are."""

    kind = "sizes"
    produces = "sizes"
    version = 1
    Config = SizesConfig

    def run(self, context: Context[SizesConfig, Resources]) -> dict[str, Any]:
        kept = context.inputs["corpus"].rows.kept
        context.draft.write_bytes("kept", str(kept).encode())
        context.fixed_rows.append(Rows(total=kept, kept=kept))
        return {"kept": kept}


class Crawl:
    """A recipe that acquires from a site on loopback, and the commands on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.recipe, self.capsys = folder / "root", folder / "crawl.yaml", capsys
        self.port = free_port()
        self.recipe.write_text(RECIPE.format(folder=folder, port=self.port))
        self.archive = folder / "site.zip"
        with zipfile.ZipFile(self.archive, "w") as archive:
            for number in range(ROWS + 2):
                picture = io.BytesIO()
                Image.new("RGB", (32 + number, 32), (20 * number, 0, 0)).save(picture, "PNG")
                archive.writestr(f"{number}.png", picture.getvalue())
        self.write_urls("urls.csv", range(ROWS))

    def write_urls(self, name: str, numbers: range, header: str = "url,caption") -> Path:
        path = self.recipe.parent / name
        lines = [f"http://127.0.0.1:{self.port}/{number}.png,picture {number}" for number in numbers]
        path.write_text("\n".join([header, *lines]) + "\n")
        return path

    def command(self, name: str, *more: str) -> dict[str, Any]:
        """Run a command on the recipe to its end; what it printed as JSON."""
        arguments = [name, str(self.recipe), *more, "--root", str(self.root), "--json"]
        self.capsys.readouterr()
        assert run_cli([*arguments, *([] if name == "plan" else ["--no-tracking", "--quiet"])]) == 0
        told: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return told

    def run(self, *more: str) -> dict[str, dict[str, Any]]:
        """`unclip run`: its steps by name."""
        return {step["name"]: step for step in self.command("run", *more)["steps"]}

    def serve(self, routes: dict[str, Route]) -> Origin:
        return Origin(Site(host="127.0.0.1", port=self.port, archives=(self.archive,), routes=routes))


@pytest.fixture
def crawl(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Crawl:
    monkeypatch.setitem(STEPS, "sizes", "tests.workflows.test_snapshots:Sizes")
    return Crawl(tmp_path, capsys)


def test_a_recipe_takes_the_newest_snapshot_unless_it_pins_one(crawl: Crawl) -> None:
    with crawl.serve(FAILING):
        first = crawl.run()
    assert first["sizes"]["summary"]["kept"] == ROWS - len(FAILING)

    with crawl.serve({"/9.png": Route(status=404)}):
        retried = crawl.command("retry")
    assert (retried["rows_asked_again"], retried["rows_recovered"]) == (2, 2)
    assert retried["parent"] == first["acquire"]["address"]
    assert [(step["name"], step["state"]) for step in retried["steps"]] == [("retry", "done")]

    again = crawl.run()
    assert (again["acquire"]["state"], again["acquire"]["address"]) == (
        "finished before",
        retried["snapshot"],
    )
    assert (again["sizes"]["state"], again["sizes"]["summary"]["kept"]) == ("done", ROWS - 1)
    plan = {step["name"]: step for step in crawl.command("plan")["steps"]}
    assert plan["acquire"]["why"].startswith("finished: newest snapshot, 2 of 2 (retry of 2")
    assert plan["sizes"]["state"] == "done"

    for pin in ("first", first["acquire"]["address"][:12]):
        old = crawl.run("--set", f"steps.acquire.snapshot='{pin}'")
        assert old["sizes"]["path"] == first["sizes"]["path"]
    with pytest.raises(
        Refusal, match=r"'0{12}' is the start of 0 snapshots, expected one of: [0-9a-f]{20}, "
    ):
        make_plan(
            load_recipe(crawl.recipe, ["steps.acquire.snapshot='000000000000'"]), crawl.root, only="acquire"
        )

    # The site is down by now: nothing is left that a retry would ask it for.
    nothing = crawl.command("retry")
    assert (nothing["snapshot"], nothing["run"]) == (retried["snapshot"], None)

    more = str(crawl.write_urls("more.csv", range(ROWS, ROWS + 2)))
    with crawl.serve({}):
        appended = crawl.command("append", more)
    assert (appended["rows_added"], appended["parent"]) == (2, retried["snapshot"])
    for list_taken in (more, str(crawl.recipe.parent / "urls.csv")):
        assert crawl.command("append", list_taken)["snapshot"] == appended["snapshot"]
    assert crawl.run()["sizes"]["summary"]["kept"] == ROWS + 1

    other = crawl.write_urls("other.csv", range(2), header="url,title")
    crawl.capsys.readouterr()
    assert run_cli(["append", str(crawl.recipe), str(other), "--root", str(crawl.root)]) == 2
    assert "expected a column 'caption', got url, title" in crawl.capsys.readouterr().err

    # Somebody deleted the newest: told, not silently replaced by an older one.
    newest = crawl.root / "store" / "corpus" / appended["snapshot"][:20]
    newest.rename(newest.with_name("elsewhere"))
    with pytest.raises(Refusal, match=r"is not in .* any more; restore it, or pin another"):
        make_plan(load_recipe(crawl.recipe), crawl.root)


def test_what_cannot_be_retried_is_refused(crawl: Crawl) -> None:
    where = [str(crawl.recipe), "--root", str(crawl.root)]
    for arguments, expected in (
        (
            ["retry", *where, "--only", "transeint"],
            "'transeint' is no state that can be retried (did you mean 't",
        ),
        (["retry", *where, "--only", "success"], "'success' is no state that can be retried"),
        (["retry", *where, "--only", ","], "expected states, got none"),
        (["retry", *where], "step acquire is not finished in"),
        (["append", *where, "gone.csv"], "step acquire is not finished in"),
        (["retry", *where, "--step", "sizes"], "--step sizes: is of kind sizes, expected acquire"),
        (["retry", *where, "--set", "steps.acquire.snapshot=first"], "the next snapshot follows the newest"),
        (["run", *where, "--set", "steps.acquire.snapshot=last"], "given 'last'; expected newest, first or"),
        (
            ["run", *where, "--set", "steps.sizes.snapshot=first"],
            "sizes.snapshot: unknown key 'snapshot'",
        ),
    ):
        crawl.capsys.readouterr()
        assert run_cli(arguments) == 2
        assert expected in (line := crawl.capsys.readouterr().err) and line.count("\n") == 1


def test_adopt_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, root = tmp_path / "theirs", tmp_path / "root"
    command = ["adopt", str(folder), "--root", str(root), "--no-tracking", "--quiet", "--json"]
    assert run_cli(command) == 2
    assert f"folder {folder}: no such folder" in capsys.readouterr().err
    write_shard(folder, 0)
    assert run_cli(command) == 0
    told = json.loads(capsys.readouterr().out)
    (step,) = told["steps"]
    corpus = Artifact.open(Path(step["path"]))
    assert corpus.rows.kept == 4 and told["recipe"] == "theirs"
    assert told["reference"] == f"${{artifact:corpus/{corpus.address[:20]}}}"
    (folder / "00000.parquet").write_bytes(b"")
    assert run_cli(command) == 1
    assert "step adopt failed: AdoptError: 1 of 1 shards cannot be adopted" in capsys.readouterr().err
