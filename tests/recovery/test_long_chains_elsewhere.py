"""Long chains in other programs' machines: said before they are opened, refused where they fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.lab import Lab
from vdbackup.errors import RecoveryError
from vdbackup.qemu import qemu
from vdbackup.recovery.other_programs import machine
from vdbackup.recovery.other_programs.machine import WrittenMachine, write_machine
from vdbackup.recovery.sessions.elsewhere import Program


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Three points on each other."""
    lab = Lab(tmp_path)
    for number in range(3):
        lab.poke(0, bytes([number + 1]) * 512)
        lab.backup()
    return lab


def written(lab: Lab, program: Program) -> WrittenMachine:
    sessions = lab.folder / "sessions"
    point = lab.set.points[-1]
    return write_machine(lab.repository, lab.set, point, program, sessions_folder=sessions)


@pytest.mark.parametrize("program", list(Program))
def test_a_chain_that_takes_a_program_long_is_said_with_advice(lab, monkeypatch, program):
    assert "disks" not in written(lab, program).how
    monkeypatch.setattr(qemu, "MAX_LAYERS", 3)
    how = written(lab, program).how
    assert "reads through 4 disks" in how  # its overlay, too
    assert "merged first" in how


@pytest.mark.parametrize("program", list(Program))
def test_a_chain_that_a_program_does_not_open_is_refused_and_nothing_is_left(
    lab, monkeypatch, program
):
    monkeypatch.setitem(machine.MAX_DISKS, program, 4)  # with the machine's own: 5
    before = lab.files
    with pytest.raises(RecoveryError, match="through 5 disks, and takes 4") as refusal:
        written(lab, program)
    assert refusal.value.advice.startswith("Merge older points first")
    assert lab.files == before
    assert not (lab.folder / "sessions").exists()
