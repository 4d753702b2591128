"""With `--json` a command that fails says so to the program that started it, too."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Said, Vdbackup
from vdbackup import cli
from vdbackup.cli import console
from vdbackup.cli.parser import build_parser

NOTHING = "-r nowhere"
REFUSED = {
    "backup": ("backup nowhere.img -r backups", "source-not-found"),
    "adopt": ("adopt nowhere.vmdk -r backups", "source-not-found"),
    "convert": (f"convert {NOTHING} --format vhd", "no-repository"),
    "list": (f"list {NOTHING}", "no-repository"),
    "files": (f"files {NOTHING} latest", "no-repository"),
    "find": (f"find {NOTHING} name", "no-repository"),
    "versions": (f"versions {NOTHING} /etc", "no-repository"),
    "diff": (f"diff {NOTHING} 1 2", "no-repository"),
    "size": (f"size {NOTHING} latest", "no-repository"),
    "info": ("info nowhere.vmdk", "source-not-found"),
    "track": ("track nowhere", "source-not-found"),
    "untrack": ("untrack nowhere", "source-not-found"),
    "restore": (f"restore {NOTHING} latest disk.img", "no-repository"),
    "export": (f"export {NOTHING} latest disk.vmdk", "no-repository"),
    "extract": (f"extract {NOTHING} latest /etc there", "no-repository"),
    "mount": (f"mount {NOTHING} latest there", "no-repository"),
    "umount": ("umount nowhere", "not-mounted"),
    "make-rescue": ("make-rescue nowhere/rescue.iso", "target-unfit"),
    "make-bootable": (
        "make-bootable nowhere",
        "needs-root" if os.geteuid() else "target-unfit",
    ),
    "verify": (f"verify {NOTHING}", "no-repository"),
    "merge": (f"merge {NOTHING} 2", "no-repository"),
    "delete": (f"delete {NOTHING} 2", "no-repository"),
    "repair": (f"repair {NOTHING}", "no-repository"),
    "policy": (f"policy {NOTHING} --keep 3", "no-repository"),
    "schedule set": (f"schedule set {NOTHING} --every daily", "no-repository"),
    "schedule show": (f"schedule show {NOTHING} --set a", "schedule-not-found"),
    "schedule remove": (f"schedule remove {NOTHING} --set a", "schedule-not-found"),
    "schedule run": (f"schedule run {NOTHING} --set a", "schedule-not-found"),
    "schedule merge": (f"schedule merge {NOTHING} --set a", "schedule-not-found"),
    "boot": (f"boot {NOTHING} latest", "no-repository"),
    "boot-test": (f"boot-test {NOTHING}", "no-repository"),
    "bisect": (f"bisect {NOTHING} --run true", "no-repository"),
    "retarget": (f"retarget {NOTHING} latest", "no-repository"),
    "rehearse": (f"rehearse {NOTHING} latest", "no-repository"),
    "open-with": (f"open-with virtualbox latest {NOTHING}", "no-repository"),
    "protect": (f"protect --session ffff {NOTHING}", "session-not-found"),
    "unprotect": (f"unprotect --forget ffff {NOTHING}", "no-repository"),
    "moments": (f"moments {NOTHING}", "no-repository"),
    "promote": (f"promote 1@w1 {NOTHING}", "no-repository"),
    "sessions reopen": ("sessions reopen ffff", "session-not-found"),
    "sessions promote": ("sessions promote ffff", "session-not-found"),
}
NEVER_REFUSED = {"sessions list", "schedule list", "status", "agent install", "agent remove"} | {
    "rescue",
    "tell",
}
"""But for what no command can do anything about; to who is not root: test_tracking.py, of the agent
test_agent.py, and of the medium tests/rescue."""


def commands_with_json(parser: argparse.ArgumentParser, name: str = "") -> Iterator[str]:
    for action in parser._actions:
        if "--json" in action.option_strings:
            yield name
        if isinstance(action, argparse._SubParsersAction):
            for each, below in action.choices.items():
                yield from commands_with_json(below, f"{name} {each}".strip())


def error(said: Said) -> dict[str, Any]:
    """What stands on the last line of standard error."""
    found = json.loads(said.err.splitlines()[-1])
    assert found.keys() == {"event", "code", "family", "title", "advice"}
    assert found["event"] == "error"
    assert found["title"].endswith(".")
    return found


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_each_command_with_json_is_tried_here():
    assert set(commands_with_json(build_parser())) == REFUSED.keys() | NEVER_REFUSED


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said_as_json_on_standard_error_alone(vdbackup: Vdbackup, name: str):
    command, code = REFUSED[name]
    said = vdbackup(*shlex.split(command), "--json")
    assert said.status == 1
    assert said.out == ""  # who reads one JSON value there must find no other
    assert len(said.err.splitlines()) == 1
    assert error(said)["code"] == code


@pytest.mark.parametrize("name", REFUSED)
def test_without_json_the_same_is_said_in_sentences(vdbackup: Vdbackup, name: str):
    said = vdbackup(*shlex.split(REFUSED[name][0]))
    assert said.status == 1
    assert said.out == ""
    assert said.err.startswith("vdbackup: ")
    assert "{" not in said.err


@pytest.mark.parametrize(
    "command",
    [
        "list --json",
        "list --js",
        "lost --json",
        "list -r here --json --colour",
        "backup disk.img -r here --keep 0 --json",
        "backup disk.img -r here --same-source --json",
        "restore -r here latest --json",
        "sessions --json",
    ],
)
def test_wrong_usage_is_said_as_json_too(vdbackup: Vdbackup, command: str):
    said = vdbackup(*shlex.split(command))
    assert said.status == 2
    assert said.out == ""
    assert error(said)["code"] == "wrong-usage"
    assert error(said)["advice"]


@pytest.mark.parametrize("command", ["list", "list -r here -- --json", "lost", "-x"])
def test_wrong_usage_is_said_in_sentences_where_nobody_asks_for_json(
    vdbackup: Vdbackup, command: str
):
    said = vdbackup(*shlex.split(command))
    assert said.status == 2
    what, advice = said.err.splitlines()
    assert what.startswith("vdbackup: ")
    assert what.endswith(".")
    assert "--help" in advice


def test_an_advice_in_json_names_our_options_as_on_a_terminal(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path, tmp_path: Path
):
    target = tmp_path / "there.img"
    target.write_bytes(b"mine")
    said = vdbackup("restore", "-r", repository, "latest", target, "--json")
    assert error(said)["code"] == "target-exists"
    assert "--overwrite" in error(said)["advice"]
    assert target.read_bytes() == b"mine"


def test_a_verification_prints_its_result_and_then_fails_as_json(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    (repository / "laptop/0002-incremental.vmdk").unlink()
    said = vdbackup("verify", "-r", repository, "--json")
    assert said.status == 1
    assert [point["ok"] for point in said.json["points"]] == [True, False, False]
    assert error(said)["code"] == "damaged"


def test_what_cannot_be_repaired_is_a_result_and_a_failure(
    vdbackup: Vdbackup, backed_up: list[Path], repository: Path
):
    digests = repository / "laptop/0002-incremental.digests"
    known = digests.read_bytes()
    digests.chmod(0o644)
    digests.write_bytes(known[:8] + struct.pack("<I", 99) + known[12:])  # of a newer version
    said = vdbackup("repair", "-r", repository, "--json")
    assert said.status == 1
    assert said.json["undone"]
    assert error(said)["code"] == "not-repaired"


def test_a_cancelled_command_says_so_as_json(vdbackup: Vdbackup, monkeypatch: pytest.MonkeyPatch):
    def interrupted(_arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_done", interrupted)
    said = vdbackup("list", "-r", "here", "--json")
    assert said.status == 130
    assert error(said)["code"] == "cancelled"
    assert not console.interrupts.came


def test_a_fault_of_the_program_says_so_as_json(
    vdbackup: Vdbackup, monkeypatch: pytest.MonkeyPatch
):
    def broken(_arguments: object) -> int:
        raise ZeroDivisionError("by zero\nat line 7")

    monkeypatch.setattr(cli, "_done", broken)
    said = vdbackup("list", "-r", "here", "--json")
    assert said.status == 1
    assert len(said.err.splitlines()) == 1
    assert error(said)["code"] == "unexpected"
