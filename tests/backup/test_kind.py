"""What a plan has looked at is looked at again where it has changed, and only there."""

from __future__ import annotations

import os

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import capture, kind
from vdbackup.disks.chain import Chain
from vdbackup.errors import VdbackupError
from vdbackup.jobs import Task
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.naming import PointType


@pytest.fixture
def lab(tmp_path):
    made = Lab(tmp_path)
    made.backup()
    made.poke(0, noise(BLOCK, 1))
    made.backup()
    return made


@pytest.fixture
def opened(monkeypatch):
    """How many chains were opened to choose by."""
    found = []
    usual = Chain.open.__func__

    def noted(cls, *arguments):
        if arguments[0].suffix == ".vmdk":  # and not the source's own image
            found.append(arguments[0].name)
        return usual(cls, *arguments)

    monkeypatch.setattr(Chain, "open", classmethod(noted))
    return found


def test_a_plan_that_still_holds_opens_no_chain_again(lab, opened):
    with open_path(lab.image) as source:
        first = kind.choose(lab.set, source, kind.AUTO)
        assert opened == ["0002-incremental.vmdk"]
        again = kind.choose(lab.set, source, "incremental", before=first)
    assert opened == ["0002-incremental.vmdk"]
    assert again == first
    assert (again.held == first.held).all()


@pytest.mark.parametrize("name", ["0001-full.vmdk", "0001-full.digests", "0002-incremental.vmdk"])
def test_a_file_of_the_chain_that_was_written_to_is_looked_at_again(lab, opened, name):
    """Of the same length, and with the time set back: the kernel's own stamp is another."""
    path = lab.set_folder / name
    with open_path(lab.image) as source:
        first = kind.choose(lab.set, source, kind.AUTO)
        was = path.stat()
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(b"another")
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        with pytest.raises(VdbackupError):
            kind.choose(lab.set, source, "incremental", before=first)


def test_a_chain_that_broke_between_plan_and_backup_gets_no_point_onto_it(lab):
    with open_path(lab.image) as source:
        plan = capture.plan(lab.repository, source)
        assert plan.kind is PointType.INCREMENTAL
        (lab.set_folder / "0001-full.vmdk").unlink()
        with pytest.raises(VdbackupError):
            capture.run(plan, Task())
    assert [point.sequence for point in lab.set.points] == [1, 2]
