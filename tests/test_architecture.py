"""The rules of the house that no other checker knows. Who may import whom: see pyproject.toml."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from vdbackup.cli import remedies
from vdbackup.cli.parser import build_parser
from vdbackup.errors import Remedy
from vdbackup.gui.actions import ACTIONS
from vdbackup.gui.machine_actions import OF_RUNNING, OF_SAVED
from vdbackup.gui.source_actions import OF_LISTED
from vdbackup.jobs import Task
from vdbackup.operations import agent

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
MAX_FILE = 100_000  # bytes
CATALOGUES = ".po"  # as long as all that the program says

QT = {"PySide6", "pyqtgraph", "shiboken6"}
PROCESSES = {"multiprocessing", "pty", "subprocess"}
PARTS_OF_OPERATIONS = {
    "vdbackup.backup.belonging",
    "vdbackup.backup.capture",
    "vdbackup.backup.delete",
    "vdbackup.backup.merge",
    "vdbackup.backup.promote",
    "vdbackup.backup.repair",
    "vdbackup.backup.retention",
    "vdbackup.operations.relinking",
    "vdbackup.recovery.relinking",
    "vdbackup.recovery.restore",
    "vdbackup.recovery.retarget.policy",
}
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


@functools.cache
def parsed(module: Path) -> ast.Module:
    """A module's syntax tree, which nobody may change."""
    return ast.parse(module.read_text(encoding="utf-8"))


def imports(module: Path) -> set[str]:
    """The top-level names of everything that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@functools.cache
def calls(module: Path) -> list[tuple[str, ast.Call]]:
    """Every call in a module, with the dotted name of what is called."""
    return [
        (ast.unparse(node.func), node)
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.Call)
    ]


def sentences(module: Path) -> Iterator[str]:
    """Every text of several words in a module, but for what describes the code."""
    tree = parsed(module)
    described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) not in described and " " in node.value.strip():
            yield node.value


def spoken_commands() -> re.Pattern[str]:
    """What names one of our commands or options in a sentence."""
    options: set[str] = set()
    commands: set[str] = set()
    parsers = [build_parser()]
    while parsers:
        for action in parsers.pop()._actions:
            options.update(each for each in action.option_strings if each.startswith("--"))
            if isinstance(action, argparse._SubParsersAction):
                commands.update(action.choices)
                parsers.extend(action.choices.values())
    ours = (
        *(f"(?<![\\w-]){each}" for each in options),
        *(f"(?<!the )vdbackup {each}" for each in commands),
    )
    return re.compile(rf"(?:{'|'.join(ours)})(?![\w-])")


def button_names() -> set[str]:
    """What stands on the window's buttons and boxes, and in its menus, in words of ours alone."""
    actions = (*ACTIONS, *OF_LISTED, *OF_RUNNING, *OF_SAVED)
    names = {each.text for action in actions for each in (action, *action.menu)}
    for module in (PACKAGE / "gui").rglob("*.py"):
        for name, call in calls(module):
            first = call.args[0] if call.args else None
            if name.rpartition(".")[2] not in {"button", "QPushButton", "QCheckBox", "addAction"}:
                continue
            if isinstance(first, ast.Call) and ast.unparse(first.func) == "tr":
                first = first.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                names.add(first.value.partition("{")[0].strip("+ "))  # a name from outside follows
    return names


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


def test_the_house_is_drawn_as_its_contract_says():
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    drawn = (PACKAGE / "README.md").read_text(encoding="utf-8").split("```")[1].split("\n")
    assert [line for line in drawn if line] == layers


def test_the_description_of_the_house_names_files_that_are_there():
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    there = {str(module.relative_to(PACKAGE)) for module in modules()}
    named = set(re.findall(r"`([a-z_]+/[a-z_/]*\.py)`", text))
    assert named
    assert named - there == set()


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


def test_scripts_that_tests_give_to_other_processes_import_what_is_there():
    """No checker reads them; some run in long tests alone."""
    lines = re.compile(r"^\s*from (vdbackup[\w.]*|tests[\w.]*) import ([\w, ]+)$", re.MULTILINE)
    wanted = {
        (module, name.strip())
        for path in (CHECKOUT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for module, names in lines.findall(node.value)
        for name in names.split(",")
    }
    assert len(wanted) > 10
    assert [
        f"{module}: {name}"
        for module, name in sorted(wanted)
        if not hasattr(importlib.import_module(module), name)
        and importlib.util.find_spec(f"{module}.{name}") is None
    ] == []


def test_listing_points_imports_nothing_that_opens_disks_boots_or_reads_file_systems(tmp_path):
    """Each of the three was half of the time that it took."""
    lab = Lab(tmp_path)
    lab.backup()
    program = (
        "import sys; from vdbackup import cli;"
        f"status = cli.main(['list', '-r', {str(lab.repository.path)!r}]);"
        "print(status, *sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.splitlines()[-1]
    status, *loaded = said.split()
    assert status == "0"
    assert "vdbackup.repository.backup_set" in loaded
    needless = {"asyncio", "dissect", "numpy", "vdbackup.guest", "vdbackup.recovery"}
    assert needless.isdisjoint(loaded)


def test_what_runs_as_root_is_made_of_python_and_itself_alone(tmp_path):
    """No library that is not Python's own, nothing of ours above it, no program but pkcheck."""
    agent.install(agent.plan_install(tmp_path), Task())
    home = tmp_path / "usr/libexec/vdbackup"
    copied = sorted(home.rglob("*.py"))
    foreign = {name for module in copied for name in imports(module)} - sys.stdlib_module_names
    assert foreign == {"vdbackup"}
    there = {str(module.relative_to(home))[:-3].replace("/", ".") for module in copied}
    there |= {name.removesuffix(".__init__") for name in there}
    named = {name for module in copied for name in imported_of_ours(module)}
    assert named - there == set()
    starts = [
        (module.name, name)
        for module in copied
        for name, _ in calls(module)
        if name.partition(".")[0] in PROCESSES or name.startswith(("os.exec", "os.posix_spawn"))
    ]
    assert starts == [("permission.py", "subprocess.run")]
    forks = [module.name for module in copied for name, _ in calls(module) if name == "os.fork"]
    assert forks == ["guardian.py"]


def imported_of_ours(module: Path) -> set[str]:
    """The modules of ours that a module imports."""
    found = set()
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vdbackup"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {str(node.module)} | {name for name in names if is_module(name)}
    return found


def is_module(name: str) -> bool:
    return (CHECKOUT / f"{name.replace('.', '/')}.py").exists()


def test_only_five_rooms_start_processes_what_arranges_schedules_and_what_tells_of_trouble():
    others = modules(outside=("agent", "qemu", "recovery", "rescue", "sources"))
    others.remove(PACKAGE / "operations" / "schedules" / "systemd.py")
    others.remove(PACKAGE / "operations" / "telling.py")
    assert [m for m in others if imports(m) & PROCESSES] == []
    assert [
        (module, name)
        for module in others
        for name, _ in calls(module)
        if name.startswith(("os.", "asyncio."))
        and name.partition(".")[2].startswith(PROCESS_CALLS)
        and (module.name, name) != ("__main__.py", "os.execv")  # the program itself, in UTF-8 mode
    ] == []


def parts_of_operations(text: str) -> set[str]:
    """The modules a text imports of which `vdbackup.operations` makes what a person asks for."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & PARTS_OF_OPERATIONS


def test_no_front_end_puts_an_operation_together_itself():
    """A new point is retargeted, machines are linked anew after a merge: that is known once."""
    pairing = (
        "def back_up():\n"
        "    from vdbackup.backup import capture, merge\n"
        "    from vdbackup.recovery.retarget.policy import for_new_point\n"
    )
    assert parts_of_operations(pairing) == {
        "vdbackup.backup.capture",
        "vdbackup.backup.merge",
        "vdbackup.recovery.retarget.policy",
    }
    front_ends = [m for m in modules() if m.relative_to(PACKAGE).parts[0] in ("cli", "gui")]
    assert front_ends
    assert [
        (module, part)
        for module in front_ends
        for part in parts_of_operations(module.read_text(encoding="utf-8"))
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


def test_only_the_command_line_speaks_of_its_commands_and_options():
    """The engine's sentences are read in the window, too: see `vdbackup.errors.Remedy`."""
    spoken = spoken_commands()
    assert spoken.search("Run `vdbackup repair` on it.")
    assert spoken.search("Give --overwrite if that is what you want.")
    assert [
        (module, sentence)
        for module in modules(outside=("cli",))
        if module != PACKAGE / "gui" / "app.py"  # speaks to a terminal while there is no window
        for sentence in sentences(module)
        if spoken.search(sentence)
    ] == []


def test_only_the_window_speaks_of_what_to_press():
    """Its buttons are named in quotation marks; those of one word are verbs as any other."""
    names = {name for name in button_names() if " " in name}
    assert {"Back up now", "Boot in VM", "Run without a display"} <= names
    pressed = re.compile("|".join(["[“”]", *(rf"\b{re.escape(each)}(?!\w)" for each in names)]))
    assert pressed.search("Take “Repair” in the menu.")
    assert [
        (module, sentence)
        for module in modules(outside=("cli", "gui"))
        for sentence in sentences(module)
        if pressed.search(sentence)
    ] == []


def test_sentences_say_sizes_in_words():
    """ "67108864 bytes" says nothing to a person; a format's own parts and sectors are small."""
    counted = [
        (module.name, place)
        for module in modules(outside=("cli", "demo", "disks"))
        for name, call in calls(module)
        if name in ("tr", "trn") and isinstance(call.args[0], ast.Constant)
        for place in re.findall(r"\{(\w+)\} ?bytes?\b", call.args[0].value)
        for value in [ast.unparse(each.value) for each in call.keywords if each.arg == place]
        if not re.search(r"sector|SECTOR|MAX_NAME|len\(|before|grouped", value)
    ]
    assert counted == [("opening.py", "size")]  # of a file below one sector


def test_every_remedy_has_words_on_the_command_line_that_it_understands():
    assert set(remedies.WORDS) == set(Remedy)
    spoken = spoken_commands()
    for words in remedies.WORDS.values():
        for named in re.findall(r"--[a-z-]+|vdbackup [a-z-]+", words):
            assert spoken.fullmatch(named), words


def test_the_top_level_stays_as_it_is():
    names = {path.parts[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_no_tracked_file_is_large():
    existing = [CHECKOUT / path for path in tracked() if (CHECKOUT / path).is_file()]
    assert existing
    large = [path for path in existing if path.stat().st_size > MAX_FILE]
    assert [path for path in large if path.suffix != CATALOGUES] == []
