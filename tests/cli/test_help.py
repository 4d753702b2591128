"""`--help`: the commands in groups, and for each an example that works and its exit statuses."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator

import pytest

from tests.cli.conftest import Vdbackup
from vdbackup.cli.parser import FAMILIES, asked_command, build_parser

GROUPS = ["make", "look", "get back", "volumes in use", "machines", "care"]


def commands(
    parser: argparse.ArgumentParser | None = None, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command, with those below it."""
    for action in (parser or build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each, below in action.choices.items():
                whole = f"{name} {each}".strip()
                yield whole, below
                yield from commands(below, whole)


NAMES = [name for name, _ in commands()]


@pytest.mark.parametrize("name", [name for family in FAMILIES.values() for name in family])
def test_a_parser_of_one_command_knows_that_and_no_other(name: str):
    known = [each for each, _ in commands(build_parser(name)) if " " not in each]
    assert known == [name]
    assert asked_command(["-v", name, "--help"]) == name


def test_the_commands_are_shown_in_groups_each_once(vdbackup: Vdbackup):
    said = vdbackup("--help")
    assert said.status == 0
    titles = re.findall(r"^([a-z ]+):$", said.out, re.MULTILINE)
    assert titles == [*GROUPS, "options"]
    shown = re.findall(r"^  ([a-z][a-z-]+) ", said.out.partition("options:")[0], re.MULTILINE)
    assert sorted(shown) == sorted(name for name in NAMES if " " not in name)


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_has_an_example_that_the_parser_takes(name: str):
    text = dict(commands())[name].format_help()
    (example,) = re.findall(r"^example:\n  vdbackup (.+)$", text, re.MULTILINE)
    options = build_parser().parse_args(shlex.split(example))
    assert example.startswith(name)
    assert callable(options.command)


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_says_what_its_exit_statuses_mean(name: str):
    text = dict(commands())[name].format_help().partition("exit status:\n")[2]
    statuses = dict(re.findall(r"^  (\d+) +(.+)$", text, re.MULTILINE))
    assert statuses.keys() - {"3"} == {"0", "1", "2", "130"}
    assert statuses["1"] != "failed"  # it says what of it


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_of_a_command_is_explained(name: str):
    parser = dict(commands())[name]
    actions = [a for a in parser._actions if not isinstance(a, argparse._SubParsersAction)]
    assert [a.dest for a in actions if not a.help] == []
