"""Man page and completion, as the build makes them of the parser: man and the shells take them."""

from __future__ import annotations

import argparse
import os
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.test_help import commands
from vdbackup.cli.parser import build_parser

CHECKOUT = Path(__file__).resolve().parents[2]
MAKER = CHECKOUT / "packaging" / "terminal.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the build writes, by what reads it."""
    write: Callable[[Path], dict[str, Path]] = runpy.run_path(str(MAKER))["write"]
    return write(tmp_path_factory.mktemp("share"))


def said(*command: str | Path) -> str:
    """What a program prints; it must have nothing to complain of."""
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "HOME": "/nonexistent",
            "XDG_CONFIG_HOME": "/nonexistent",
        },
    )
    assert done.stderr == ""
    return done.stdout


def options() -> Iterator[tuple[str, argparse.Action]]:
    for name, parser in [("", build_parser()), *commands()]:
        for action in parser._actions:
            yield name, action


def test_the_man_page_is_one_without_mistakes_and_names_every_command_and_option(
    files: dict[str, Path],
):
    page = " ".join(said("groff", "-man", "-ww", "-Tascii", "-P-cbou", files["man"]).split())
    for name, action in options():
        for option in action.option_strings:
            assert option in page, f"{name} {option}"
    for name, _ in commands():
        assert f"vdbackup {name}" in page
    for title in ("MAKE", "LOOK", "GET BACK", "MACHINES", "CARE"):
        assert f"COMMANDS: {title}" in page


def test_no_text_begins_a_request_of_roff(files: dict[str, Path]):
    """A help that begins with a dot would vanish from the page."""
    lines = files["man"].read_text(encoding="utf-8").splitlines()
    requests = {line.split()[0] for line in lines if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".br", ".nf", ".fi", ".nh"}


TYPED = [
    ("ver", "verify"),
    ("boot-", "boot-test"),
    ("boot --head", "--headless"),
    ("sessions disc", "discard"),
    ("retarget --hardware nv", "nvme"),
]


@pytest.mark.parametrize(("typed", "completed"), TYPED)
def test_bash_completes_what_was_begun(files: dict[str, Path], typed: str, completed: str):
    words = ["vdbackup", *typed.split()]
    script = (
        'source "$0"; function=$(complete -p vdbackup); function=${function#*-F }; '
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '${function%% *} vdbackup "${COMP_WORDS[COMP_CWORD]}" ""; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    found = said("bash", "--norc", "-c", script, files["bash"], *words).split()
    assert completed in found
    assert all(each.startswith(words[-1]) for each in found)


@pytest.mark.parametrize(("typed", "completed"), TYPED)
def test_fish_completes_what_was_begun(files: dict[str, Path], typed: str, completed: str):
    script = f"source {files['fish']}; complete -C 'vdbackup {typed}'"
    found = said("fish", "--no-config", "-c", script).splitlines()
    assert completed in [line.partition("\t")[0] for line in found]


def test_zsh_finds_its_completion_of_vdbackup_and_can_read_it(files: dict[str, Path]):
    script = (
        f"fpath=({files['zsh'].parent} $fpath); autoload -Uz compinit; compinit -u -D; "
        "autoload +X _vdbackup; print -r -- $_comps[vdbackup] $+functions[_vdbackup]"
    )
    assert said("zsh", "-fc", script).split() == ["_vdbackup", "1"]
    said("zsh", "-n", files["zsh"])


def test_manual_page_and_completions_need_no_more_than_the_build_asks_for():
    """pip builds in an environment of its own, in which what vdbackup needs is not installed."""
    show = "print(*{each.partition('.')[0] for each in sys.modules})"
    make = f"runpy.run_path({str(MAKER)!r})['completion']('bash')"
    program = f"import sys, runpy; sys.path[:0] = [{str(CHECKOUT)!r}]; {make}; {show}"
    loaded = set(said(sys.executable, "-c", program).split())
    at_start = set(said(sys.executable, "-c", f"import sys; {show}").split())
    assert loaded - at_start - set(sys.stdlib_module_names) == {"vdbackup", "shtab"}


def test_the_wheel_is_told_to_take_the_manual_page_and_the_completions():
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    (hook,) = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"].values()
    assert (CHECKOUT / hook["path"]).is_file()
    assert any(each.startswith("shtab") for each in settings["build-system"]["requires"])
