"""Work on all points of a set grows with their number, not with its square."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.long_sets import lengthen
from tests.backup.operations_counted import Counts, assert_linear, operations_counted
from tests.noise import noise
from tests.sources.opened import open_path
from vdbackup.backup import adopt, convert, delete, retention
from vdbackup.jobs import Task
from vdbackup.repository import claims
from vdbackup.repository.policy import Policy
from vdbackup.repository.repository import Repository

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


def test_converting_a_set_takes_work_in_proportion_to_its_points(labs):
    counts = []
    for lab in labs:
        with operations_counted(lab.folder) as counted:
            convert.run(convert.plan(lab.repository, "disk", "vhdx"), Task())
        counts.append(counted)
    assert_linear(*counts)


@pytest.mark.parametrize("disk_format", ["qcow2", "vhd"])
def test_adopting_a_chain_takes_work_in_proportion_to_its_points(labs, disk_format):
    def adopted(lab: Lab) -> Counts:
        into = Repository.create(lab.folder / f"adopted-{disk_format}")
        tip = lab.layer(lab.set.points[-1])
        with operations_counted(lab.folder) as counted, open_path(tip) as source:
            plan = adopt.plan(into, source, disk_format=disk_format)
            adopt.run(plan, Task())
        return counted

    assert_linear(*map(adopted, labs))


def a_policy(lab: Lab, sets: Path) -> tuple[Repository, Counts, retention.Applied]:
    """What keeping two points does to a copy of the set."""
    shutil.copytree(lab.repository.path, sets / lab.folder.name)
    repository = Repository.open(sets / lab.folder.name)
    repository.set_policy("disk", Policy(2))
    with operations_counted(sets) as counted, repository.lock("retention"):
        applied = retention.apply(repository, "disk", Task())
    return repository, counted, applied


def test_a_policy_that_takes_many_points(labs, tmp_path):
    done = [a_policy(lab, tmp_path) for lab in labs]
    assert all(len(repository.set("disk").points) == 2 for repository, *_ in done)
    # each merge looks which holds there are in the folder: 10 ms with 2,000 points
    assert_linear(*(counted for _, counted, _ in done), but="listed")


def test_a_policy_whose_points_are_all_in_use(labs, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "GIVE_WAY", 0.0)

    def busy(lab: Lab) -> Counts:
        repository = Repository.open(tmp_path / lab.folder.name)
        points = [repository.set("disk").points[-1].id]
        with (
            claims.reading(repository, "disk", points, "reading all"),
            operations_counted(tmp_path) as counted,
            repository.lock("retention"),
        ):
            applied = retention.apply(repository, "disk", Task())
        assert applied.done[-1].endswith("more points stay for now.")
        return counted

    for lab in labs:
        shutil.copytree(lab.repository.path, tmp_path / lab.folder.name)
        Repository.open(tmp_path / lab.folder.name).set_policy("disk", Policy(2))
    assert_linear(*map(busy, labs), but="listed")


def test_deleting_opens_each_layer_of_the_chain_once_and_a_few_again(labs, tmp_path):
    """What is rolled into the point, and what hangs on that, is all that a deletion needs more."""
    opened = []
    for lab in labs:
        shutil.copytree(lab.repository.path, tmp_path / lab.folder.name)
        repository = Repository.open(tmp_path / lab.folder.name)
        point = repository.set("disk").points[-3]
        with operations_counted(tmp_path) as counted:
            delete.run(delete.plan(repository, "disk", point.id), Task())
        opened.append(counted.layers)
    added = NUMBERS[1] - NUMBERS[0]
    assert [opened[1] - opened[0], opened[2] - opened[1]] == [added, added]
