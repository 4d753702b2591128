"""Work on all points of a set grows with their number, not with its square."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.lab import Lab, noise
from tests.backup.long_sets import lengthen
from tests.backup.operations_counted import Counts, assert_linear, operations_counted
from vdbackup.backup import adopt, convert
from vdbackup.jobs import CancelToken, silent
from vdbackup.repository.repository import Repository
from vdbackup.sources.source import open_source

MIB = 1 << 20
NUMBERS = (6, 12, 18)


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> list[Lab]:
    """Sets of so many points, each on the last."""
    return [a_lab(tmp_path_factory.mktemp("lab"), points) for points in NUMBERS]


def a_lab(folder: Path, points: int) -> Lab:
    lab = Lab(folder, 16 * MIB, disk_format="qcow2")
    lab.poke(0, noise(MIB, 1))
    lab.backup()
    lengthen(lab, points)
    return lab


def test_converting_a_set(labs):
    counts = []
    for lab in labs:
        with operations_counted(lab.folder) as counted:
            convert.run(convert.plan(lab.repository, "disk", "vhdx"), silent, CancelToken())
        counts.append(counted)
    assert_linear(*counts)


@pytest.mark.parametrize("disk_format", ["qcow2", "vhd"])
def test_adopting_a_chain(labs, disk_format):
    def adopted(lab: Lab) -> Counts:
        into = Repository.create(lab.folder / f"adopted-{disk_format}")
        tip = lab.layer(lab.set.points[-1])
        with operations_counted(lab.folder) as counted, open_source(tip) as source:
            plan = adopt.plan(into, source, disk_format=disk_format)
            adopt.run(plan, silent, CancelToken())
        return counted

    assert_linear(*map(adopted, labs))
