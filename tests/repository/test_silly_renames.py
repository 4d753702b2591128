"""What an NFS client leaves in the place of a file that was removed while it was open.

It is called .nfs and digits, in the same folder, until the last program closes it: the kernel's
fs/nfs/unlink.c, nfs_sillyrename. Here it holds a layer, a manifest, and a catalogue.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from vdbackup.backup import repair
from vdbackup.jobs import Task
from vdbackup.recovery import verify
from vdbackup.repository.digests import BLOCK


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Three points, and what was left of their files."""
    lab = Lab(tmp_path)
    for number in range(3):
        lab.poke(number * BLOCK, noise(BLOCK, number))
        lab.backup()
    return lab


def leave(lab: Lab) -> dict[Path, bytes]:
    """What lies there, by name."""
    kept = [lab.layer(lab.set.points[1]), *lab.set_folder.glob("*.json")]
    for number, path in enumerate(kept):
        shutil.copy(path, lab.set_folder / f".nfs{number:016x}{number:08x}")
    (lab.repository.path / ".nfs0000000000000099").write_bytes(b"of the repository")
    return left(lab)


def left(lab: Lab) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in lab.repository.path.rglob(".nfs*")}


def test_they_count_as_nothing_and_stay(lab: Lab) -> None:
    points = [point.id for point in lab.set.points]
    there = leave(lab)
    assert [point.id for point in lab.set.points] == points
    assert lab.repository.survey()[1] == []
    assert all(each.ok for each in verify.run(verify.plan(lab.repository, "disk"), Task()))
    assert repair.run(lab.repository.path, Task()) == repair.Repaired([], [])
    assert left(lab) == there


def test_operations_go_on_beside_them(lab: Lab) -> None:
    there = leave(lab)
    lab.merge(lab.set.points[1])
    lab.poke(5 * BLOCK, noise(BLOCK, 9))
    lab.backup()
    lab.delete(lab.set.points[-1])
    assert left(lab) == there
    for path in there:
        path.unlink()
    lab.check_all()


def test_what_is_rebuilt_is_rebuilt_of_files_that_have_their_names(lab: Lab) -> None:
    moments = [point.sequence for point in lab.set.points]
    there = leave(lab)
    (lab.set_folder / "0001-full.json").unlink()
    repair.run(lab.repository.path, Task())
    assert [point.sequence for point in lab.set.points] == moments
    assert left(lab) == there
