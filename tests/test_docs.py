"""The documentation speaks the truth: links resolve, commands and options exist, recipes validate."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workflows.cli.main import run_cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"```(?:bash|sh|console)\n(.*?)```", re.S)


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands(page: Path) -> list[list[str]]:
    """Every command line in the page's shell blocks, split as a shell splits it, comments dropped."""
    found = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                found.append(words)
    return found


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}: no such heading"


def check_unclip(words: list[str]) -> None:
    from workflows.cli.main import cli

    command: click.Command = cli
    rest = list(words[1:])
    while rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"no command {name!r} in: {' '.join(words)}"
        command = found
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in rest:
        if word.startswith("-") and not re.fullmatch(r"-\d+", word):
            assert word.partition("=")[0] in options, f"no option {word!r} in: {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for words in commands(page):
        if words[0] == "unclip":
            check_unclip(words)
        elif words[0] == "make":
            targets = [w for w in words[1:] if "=" not in w]
            assert targets, words
            for target in targets:
                assert re.search(rf"^{target}:", makefile, re.M), f"no make target {target!r}"
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), f"no module {words[2]!r}"


def test_every_page_is_reachable_from_the_readme() -> None:
    """A page nobody links to is a page nobody reads."""
    seen: set[Path] = set()
    queue = [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        queue += [
            (page.parent / target.partition("#")[0]).resolve()
            for target in LINK.findall(page.read_text())
            if not re.match(r"[a-z]+:|#", target)
        ]
    assert {p.name for p in PAGES} <= {p.name for p in seen}


FOR_CLUSTERS = {"paper", "paper_ar_prior"}


@pytest.mark.parametrize("recipe", sorted((ROOT / "workflows/recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_plan(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each shipped recipe passes `unclip plan`, or lacks nothing but a larger machine; a URL list and a shard
    lie in its folder."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "00000.tar").touch()
    pq.write_table(
        pa.table({"url": ["https://example.org/a.png"], "caption": ["a"]}), tmp_path / "urls.parquet"
    )
    monkeypatch.chdir(tmp_path)
    refused = run_cli(["plan", str(recipe), "--root", str(tmp_path / "root")])
    assert refused == (2 if recipe.stem in FOR_CLUSTERS else 0)
    problems = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unclip: ")]
    assert all(re.search(r"64 ranks|free on its disk", problem) for problem in problems), problems
    assert not (tmp_path / "root").exists(), "plan writes nothing"
