"""Holes: where nothing is kept and nothing should be, nothing is read; stored zeros are.

A base in VHD or VHDX counts in blocks of 2 MiB and more, of which little may be written.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from vdbackup.disks.extents import total
from vdbackup.errors import Damaged
from vdbackup.jobs import Progress, Task
from vdbackup.recovery import restore, verify
from vdbackup.repository.digests import BLOCK

MIB = 1 << 20
IN_A_HOLE = 5 * BLOCK
"""Within a block of 2 MiB that is stored, and no source of bytes."""


@pytest.fixture
def lab(tmp_path: Path, disk_format: str) -> Lab:
    """A full with a block of 64 KiB in each of two blocks of 2 MiB, and a child."""
    lab = Lab(tmp_path, 8 * MIB, disk_format=disk_format)
    lab.poke(2 * BLOCK, noise(BLOCK, 1))
    lab.poke(4 * MIB, noise(BLOCK, 2))
    lab.backup()
    lab.poke(6 * MIB, noise(BLOCK, 3))
    lab.backup()
    return lab


class Reads:
    """Notes how many bytes an operation reads in all, as its progress says."""

    def __init__(self) -> None:
        self._phases: dict[str, int] = {}

    def __call__(self, progress: Progress) -> None:
        self._phases[progress.phase] = progress.total or 0

    @property
    def total(self) -> int:
        return sum(self._phases.values())


def verified(lab: Lab, task: Task | None = None) -> list[verify.Finding]:
    verdicts = verify.run(verify.plan(lab.repository, "disk"), task or Task())
    return [finding for verdict in verdicts for finding in verdict.findings]


def write_to_base(lab: Lab, offset: int, data: bytes) -> None:
    """Where the base keeps byte `offset` of its disk, in a hole of its file or not."""
    base = lab.layer(lab.set.points[0])
    with closing(lab.open(base)) as disk:
        where = disk.block_map()
    run = where.run_at(offset)
    base.chmod(0o600)
    with base.open("r+b") as file:
        file.seek(int(where.hosts[run]) + offset - int(where.starts[run]))
        file.write(data)
    base.chmod(0o444)


def test_what_neither_the_file_nor_the_digests_hold_is_not_read_again(lab):
    reads = Reads()
    assert verified(lab, Task(reads)) == []
    neighbours = 2 * BLOCK if lab.disk_format == "vhd" else 0  # whose blocks end within a page
    assert 3 * BLOCK <= reads.total <= 3 * BLOCK + neighbours


def test_a_restore_reads_what_is_stored_and_its_result_is_the_disk(lab, tmp_path):
    reads = Reads()
    plan = restore.plan(
        restore.RestoreRequest(lab.repository, "disk", lab.set.points[1].id, tmp_path / "restored")
    )
    assert restore.run(plan, Task(reads)).warnings == ()
    assert (tmp_path / "restored").read_bytes() == lab.image.read_bytes()
    assert reads.total < 3 * BLOCK + 4 * BLOCK


@pytest.mark.parametrize("disk_format", ["vhd", "vhdx"])
def test_a_bit_that_turned_up_in_a_hole_or_in_stored_zeros_is_found(lab, tmp_path):
    write_to_base(lab, IN_A_HOLE, bytes(BLOCK))  # zeros, and no hole any more
    assert verified(lab) == []
    write_to_base(lab, IN_A_HOLE + 700, b"\x01")
    base = lab.set.points[0].disk
    found = {(finding.file, finding.offset) for finding in verified(lab)}
    assert found == {(base, IN_A_HOLE)}
    plan = restore.plan(
        restore.RestoreRequest(lab.repository, "disk", lab.set.points[1].id, tmp_path / "restored")
    )
    with pytest.raises(Damaged, match=base):
        restore.run(plan, Task())


def test_a_block_that_became_a_hole_is_found(lab):
    base = lab.layer(lab.set.points[0])
    with closing(lab.open(base)) as disk:
        assert total(disk.block_map().data_ranges()) >= 2 * BLOCK
    write_to_base(lab, 4 * MIB, bytes(BLOCK))
    punch_zeros(base)
    found = {(finding.file, finding.offset) for finding in verified(lab)}
    assert found == {(base.name, 4 * MIB)}


def punch_zeros(path: Path) -> None:
    """Make holes of a file's zeros, as a copy by a program does that looks for them."""
    path.chmod(0o600)
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(0)
        for at in range(0, len(data), 4096):
            if data[at : at + 4096].strip(b"\0"):
                file.seek(at)
                file.write(data[at : at + 4096])
        file.truncate(len(data))
    path.chmod(0o444)
