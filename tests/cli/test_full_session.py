"""A machine whose session's storage really runs full: it waits, says so, and goes on to its end."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.conftest import Vdbackup
from tests.crash.storage import MIB, fill, storage
from tests.guests import boot_sector
from vdbackup.recovery.sessions.saved import saved_sessions

POWER_OFF = """
    mov dx, 0x604       ; PM1a_CNT, where SeaBIOS puts it: ACPI 4.8.3.2
    mov ax, 0x2000      ; SLP_EN
    out dx, ax
    jmp halt
"""
ROOM = 3 * MIB
"""Bytes that are free at first: for a session's disk, and a third of what the guest writes."""


@pytest.fixture
def small(as_root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small ext4 on which sessions lie."""
    with storage(tmp_path / "small", "ext4") as made:
        monkeypatch.setenv("VDBACKUP_DATA_DIR", str(made.folder))
        yield made.folder


@pytest.fixture
def boot(small: Path, repository: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the real program on the first point; what still runs at the end is killed."""
    command = [sys.executable, "-m", "vdbackup", "boot", "1", "-r", str(repository)]
    command += ["--headless", "--hardware", "virtio", "--keep"]
    with ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start
    for session in saved_sessions(small / "sessions"):
        session.discard()


def written_everywhere(sector: bytes) -> bytes:
    """The guest's disk in the end: its code in each 64 KiB, with the number that it counted."""
    counter = sector.index(struct.pack("<BBHHH", 16, 0, 1, 0x7C00, 0)) + 8
    numbers = range(0, boot_sector.SIZE // 512, 128)
    counted = (sector[:counter] + struct.pack("<Q", n) + sector[counter + 8 :] for n in numbers)
    return b"".join(each.ljust(64 << 10, b"\0") for each in counted)


def test_a_machine_whose_storage_is_full_waits_for_space_and_loses_nothing(
    vdbackup: Vdbackup,
    small: Path,
    boot: Callable[[], subprocess.Popen[str]],
    repository: Path,
    tmp_path: Path,
) -> None:
    code = boot_sector.write_everywhere().replace("jmp halt\n", POWER_OFF, 1)
    disk = boot_sector.make(tmp_path / "writer.img", code)
    assert vdbackup("backup", disk, "-r", repository).status == 0
    make_space = fill(small)
    os.truncate(small / "other", (small / "other").stat().st_size - ROOM)
    booting = boot()
    assert booting.stderr is not None
    paused = next(line for line in booting.stderr if "is paused" in line)
    assert "there is no space for what it writes" in paused
    advice = next(booting.stderr)
    (session,) = vdbackup("sessions", "list", "--json").json
    assert session["state"] == "paused"
    assert f"vdbackup sessions resume {session['id']}" in advice

    assert vdbackup("sessions", "resume", session["id"]).status == 0
    assert "is paused" in next(booting.stderr)  # for there is no more space than before

    make_space()
    assert vdbackup("sessions", "resume", session["id"]).status == 0
    assert booting.wait() == 0
    written, seen = Path(session["folder"]) / "session.qcow2", tmp_path / "seen.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", written, seen], check=True)
    assert seen.read_bytes() == written_everywhere(disk.read_bytes()[:512])
    assert vdbackup("sessions", "discard", session["id"]).status == 0
