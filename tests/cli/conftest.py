"""The command line as a shell would use it, in this process."""

from __future__ import annotations

import json
import os
import pty
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.backup.once import made_once
from vdbackup import cli
from vdbackup.sources import demo_disk


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last JSON line: the result."""
        return json.loads(self.out.splitlines()[-1])


Vdbackup = Callable[..., Said]


@pytest.fixture
def vdbackup(capfd: pytest.CaptureFixture[str]) -> Vdbackup:
    """`vdbackup(...)` runs the command line; the exit status and what it printed."""

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's way to refuse
            status = int(end.code or 0)
        return Said(status, *capfd.readouterr())

    return run


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A small bootable disk."""
    image = tmp_path / "laptop.img"
    demo_disk.create(image, "the first state")
    return image


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Where a repository can be made."""
    return tmp_path / "backups"


@pytest.fixture
def backed_up(vdbackup: Vdbackup, disk: Path, repository: Path) -> list[Path]:
    """A repository of three points, each on the one before; the disk at each moment, raw."""
    states = [disk.with_name(f"state-{number}.raw") for number in (1, 2, 3)]

    def make() -> None:
        for number, state in enumerate(states, 1):
            demo_disk.change(disk, f"state {number}", {"DIARY.TXT": f"day {number}".encode()})
            shutil.copy(disk, state)
            assert vdbackup("backup", disk, "-r", repository).status == 0

    made_once("three points", make, repository, disk, *states)
    return states


@pytest.fixture
def no_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other program's tool answers."""
    for name in ("virsh", "VBoxManage", "vmrun"):
        program = tmp_path / "silent" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "silent"), prepend=":")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is written to it is typed on the terminal."""
    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield keyboard
    os.close(keyboard)
