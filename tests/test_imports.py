"""The rooms: who may import whom, read from the source, so that the table in docs/design.md stays true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("filters", "models", "infra", "pipelines", "workflows", "tests")
MAY_IMPORT = {
    "filters": set(),
    "models": set(),
    "infra": set(),
    "pipelines": {"filters", "models", "infra"},
    "workflows": {"pipelines", "infra", "filters", "models"},
    "tests": set(ROOMS),
}
DISTRIBUTION = {"ray", "mlflow", "deepspeed"}
LOOP = ("loop", "objectives", "ema", "stream", "checkpoint", "engine")
LOOP_FILES = [f"pipelines/train/{name}.py" for name in LOOP]
LOOP_MAY_IMPORT = {"torch", "numpy", "pyarrow", "jaxtyping"}
# They measure the whole demo, which needs everything installed anyway.
WHOLE_INSTALLATION = {"demo.py", "memory.py"}
LINES = 450


def sources(room: str) -> list[Path]:
    return [path for path in sorted((ROOT / room).rglob("*.py")) if "__pycache__" not in path.parts]


def imports(path: Path, *, module_level: bool = False) -> dict[str, int]:
    """Top-level names of the packages a file imports, with a line for each.

    With `module_level`, only what importing the file pays for: not inside functions, nor under
    `if TYPE_CHECKING:`.
    """
    found: dict[str, int] = {}
    todo: list[ast.AST] = [ast.parse(path.read_text(), str(path))]
    while todo:
        node = todo.pop()
        if module_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if module_level and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0]: node.lineno for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found[str(node.module).partition(".")[0]] = node.lineno
        todo += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(room)
        for name, line in imports(path).items()
        if name in ROOMS and name != room and name not in MAY_IMPORT[room]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ["filters", "models"])
def test_pure_rooms_know_nothing_of_distribution(room: str) -> None:
    wrong = [path for path in sources(room) if DISTRIBUTION & imports(path).keys()]
    assert not wrong


def test_training_loop_runs_on_a_machine_that_has_only_torch() -> None:
    import sys

    allowed = LOOP_MAY_IMPORT | set(sys.stdlib_module_names) | set(ROOMS)
    benchmarks = [path for path in sources("tests/benchmarks") if path.name not in WHOLE_INSTALLATION]
    for name in [*LOOP_FILES, *(str(path.relative_to(ROOT)) for path in benchmarks)]:
        if (ROOT / name).is_file():
            wrong = imports(ROOT / name, module_level=True).keys() - allowed
            assert not wrong, f"{name} imports {wrong} at module level"


def test_there_are_six_rooms_and_no_seventh() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(ROOMS)


def test_every_init_is_empty_and_every_package_has_one() -> None:
    for room in ROOMS:
        for path in sources(room):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"
            if path.name == "__init__.py":
                assert path.read_text() == "", f"{path} is not empty"


def test_files_stay_readable() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for room in ROOMS
        for path in sources(room)
        if (count := len(path.read_text().splitlines())) > LINES
    }
    assert not long, f"longer than {LINES} lines: {long}"
