"""The rules of the house that no other checker knows. Who may import whom: see pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "vdbackup"
TOP_LEVEL = {
    "LICENSE",
    "README.md",
    "packaging",
    "pyproject.toml",
    "resources",
    "tests",
    "vdbackup",
}
LARGEST_FILE = 100_000  # bytes

QT = {"PySide6", "pyqtgraph", "shiboken6"}
PROCESSES = {"multiprocessing", "pty", "subprocess"}
PROCESS_CALLS = ("create_subprocess", "fork", "popen", "posix_spawn", "spawn", "system", "exec")


def modules(*, outside: tuple[str, ...] = ()) -> list[Path]:
    """Our modules, without those in the named packages (or modules) of `vdbackup`."""
    everything = sorted(PACKAGE.rglob("*.py"))
    assert everything
    return [
        module
        for module in everything
        if module.relative_to(PACKAGE).parts[0].removesuffix(".py") not in outside
    ]


def imports(module: Path) -> set[str]:
    """The top-level names of everything that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def calls(module: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a module, with the dotted name of what is called."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def tracked() -> list[Path]:
    """What the repository holds. It may belong to another user than the one who tests."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [Path(name) for name in listing.split("\0") if name]


def test_only_the_window_imports_qt():
    assert [m for m in modules(outside=("gui",)) if imports(m) & QT] == []


@pytest.mark.parametrize("module", ["vdbackup.cli", "vdbackup.__main__"])
def test_the_command_line_starts_without_qt(module):
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    assert module in loaded
    assert QT.isdisjoint(loaded)


def test_only_sources_and_recovery_start_processes():
    others = modules(outside=("recovery", "sources"))
    assert [m for m in others if imports(m) & PROCESSES] == []
    assert [
        (module, name)
        for module in others
        for name, _ in calls(module)
        if name.startswith(("os.", "asyncio.")) and name.partition(".")[2].startswith(PROCESS_CALLS)
    ] == []


def test_nothing_is_run_by_a_shell():
    assert [
        (module, name)
        for module in modules()
        for name, call in calls(module)
        if name in {"os.popen", "os.system"}
        or any(keyword.arg == "shell" for keyword in call.keywords)
    ] == []


def test_only_the_command_line_prints():
    others = modules(outside=("cli",))
    assert [m for m in others if any(name == "print" for name, _ in calls(m))] == []


def test_the_top_level_stays_as_it_is():
    names = {path.parts[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_no_tracked_file_is_large():
    existing = [CHECKOUT / path for path in tracked() if (CHECKOUT / path).is_file()]
    assert existing
    assert [path for path in existing if path.stat().st_size > LARGEST_FILE] == []
