"""What commands say in a language that nobody speaks; tests/test_translation.py runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.cli.test_help import NAMES
from tests.pseudo import WIDE
from vdbackup.operations.schedules import systemd

NAMES_OF_OURS = {
    *("vdbackup", "laptop", "img"),
    *("full", "incremental", "differential", "raw", "auto", "latest"),  # as they are typed
    *(word for name in NAMES for word in re.findall(r"\w+", name)),
}
SYNTAX = (
    r"\S*/\S*",  # paths
    r"-\w[\w-]*",  # options
    r"\{[^}]*\}",  # what may be chosen
    r"'[^']*'",  # what was typed
    r"\bOUT\.iso\b",
    r"\b[A-Z][A-Z0-9_.-]*\b",  # places in a usage, abbreviations
    r"\b[0-9a-f-]{8,}\b",  # ids
    r"\b[\w-]+\.(?:json|img|iso|vmdk|qcow2|vhdx?|mount|TXT)\b",
    r"\b(?:vmdk|vhdx?|qcow2|ahci|bios|virtio|bookworm|trixie|true|many)\b",
)


def left_out(line: str, names: set[str]) -> list[str]:
    """The words of a line that are said in English."""
    for pattern in SYNTAX:
        line = re.sub(pattern, " ", line)
    return [word for word in re.findall("[A-Za-z]{2,}", line) if word not in names]


def commands(at: tuple[object, ...], disk: Path, folder: Path) -> list[tuple[object, ...]]:
    """What is asked for, one after the other."""
    set_of = ("--set", "laptop")
    return [
        ("list", *at),
        ("status", *at),
        ("files", "latest", "/", *at),
        ("find", "*IO.SYS*", *at),
        ("versions", "/DIARY.TXT", *at),
        ("diff", 1, 3, *at),
        ("size", 2, *at),
        ("info", folder / "backups" / "laptop" / "0002-incremental.vmdk"),
        ("verify", *at),
        ("verify", "--against-source", *at),
        ("backup", disk, *at, "--dry-run"),
        ("backup", disk, *at),
        ("policy", *at),
        ("policy", *at, "--keep", 2, "--daily", 3, "--dry-run"),
        ("policy", *at, "--pin", 2, "--note", "X"),
        ("list", *at),
        ("merge", 4, *at, "--dry-run"),
        ("delete", 2, *at, "--dry-run"),
        ("retarget", "latest", *at, "--dry-run"),
        ("restore", "latest", folder / "out.img", *at),
        ("restore", "latest", folder / "out.img", *at),
        ("export", 1, folder / "out.vhd", *at),
        ("extract", 1, "/DIARY.TXT", folder / "files", *at),
        ("repair", *at),
        ("sessions", "list"),
        ("schedule", "list"),
        ("schedule", "set", *at, "--every", "hourly"),
        ("schedule", "list"),
        ("schedule", "run", *at),
        ("schedule", "set", *at, "--every", "hourly", "--verify", 2),
        ("schedule", "list"),
        ("schedule", "remove", *at),
        ("convert", *at, *set_of, "--format", "vhdx", "--dry-run"),
        ("list", "-r", folder / "no"),
        ("boot", 99, *at),
        ("nonsense",),
        ("backup",),
        ("list", "--nonsense"),
        ("merge", *at),
        ("policy", *at, "--keep", "many"),
        ("agent", "install", "--dry-run"),
        ("open-with",),
        ("mount", 1, folder / "no", *at),
        ("umount", folder),
        ("adopt", disk, *at),
        ("size", 99, *at),
    ]


def test_every_help_is_said_in_the_language(vdbackup: Vdbackup, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "5000")
    left = {}
    for name in ["", *NAMES]:
        said = vdbackup(*name.split(), "--help")
        assert said.status == 0
        text = re.sub(
            r"^\S+: vdbackup .*$|^  \S+ (?:\S+ )*-r .*$", "", said.out, flags=re.MULTILINE
        )
        lines = [line for line in text.splitlines() if not re.match(r"  \S+ [a-z]", line)]
        if found := [each for line in lines for each in left_out(line, NAMES_OF_OURS)]:
            left[name] = found
    assert left == {}


def test_every_command_says_what_it_says_in_the_language_and_keeps_it_in_english(
    vdbackup: Vdbackup,
    backed_up: list[Path],
    repository: Path,
    disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("COLUMNS", "5000")
    monkeypatch.setattr(systemd, "_RUNS", tmp_path / "no-systemd")
    assert len(backed_up) == 3
    left = {}
    for arguments in commands(("-r", repository), disk, tmp_path):
        said = vdbackup(*arguments)
        lines = (said.out + said.err).splitlines()
        if found := [each for line in lines for each in left_out(line, NAMES_OF_OURS)]:
            left[arguments] = found
    assert left == {}
    kept = [file for file in repository.rglob("*.json") if "index" not in file.name]
    assert kept
    wide = {chr(code) for code in WIDE.values()}
    for file in kept:
        text = json.dumps(json.loads(file.read_bytes()), ensure_ascii=False)
        assert wide.isdisjoint(text), file
