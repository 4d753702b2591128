"""Damaged digests: they are named, and spoil nothing but what can be said of their own blocks."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.backup.once import once
from tests.noise import noise
from vdbackup.backup import repair
from vdbackup.errors import Damaged, DamagedDigests, Remedy
from vdbackup.jobs import Task
from vdbackup.recovery import restore, verify
from vdbackup.repository.digest_file import HEADER
from vdbackup.repository.digests import BLOCK
from vdbackup.repository.model import RecoveryPoint


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """1 <- 2 <- 3; the digests of 1 are altered, those of the other two are not."""
    lab = three_points(Lab(tmp_path, disk_format="qcow2"))
    overwrite(digests_of(lab, 1), HEADER.size, b"others")
    return lab


@once
def three_points(lab: Lab) -> None:
    lab.poke(0, noise(9 * BLOCK, 1))
    lab.backup()
    lab.poke(BLOCK, noise(2 * BLOCK, 2))
    lab.backup()
    lab.poke(5 * BLOCK, noise(BLOCK, 3))
    lab.backup()


def point(lab: Lab, sequence: int) -> RecoveryPoint:
    return next(each for each in lab.set.points if each.sequence == sequence)


def digests_of(lab: Lab, sequence: int) -> Path:
    return lab.set_folder / point(lab, sequence).digests


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def findings(lab: Lab) -> dict[int, list[tuple[str, int | None, int]]]:
    found = verify.run(verify.plan(lab.repository, "disk"), Task())
    return {
        verdict.point.sequence: [(each.file, each.offset, each.length) for each in verdict.findings]
        for verdict in found
    }


def restored(lab: Lab, target: Path, *, ignore_damage: bool) -> tuple[str, ...]:
    plan = restore.plan(
        restore.RestoreRequest(
            lab.repository, "disk", point(lab, 2).id, target, ignore_damage=ignore_damage
        )
    )
    return restore.run(plan, Task()).warnings


def test_verify_says_what_cannot_be_checked_and_checks_the_rest(lab):
    layer = lab.layer(point(lab, 2))
    layer.chmod(0o600)
    data = layer.read_bytes()
    overwrite(layer, data.index(noise(2 * BLOCK, 2)), b"damage")
    base, child = "0001-full.digests", layer.name
    assert findings(lab) == {
        1: [(base, 0, 9 * BLOCK)],
        2: [(base, 0, BLOCK), (base, 3 * BLOCK, 6 * BLOCK), (child, BLOCK, BLOCK)],
        3: [
            (base, 0, BLOCK),
            (base, 3 * BLOCK, 2 * BLOCK),
            (base, 6 * BLOCK, 3 * BLOCK),
            (child, BLOCK, BLOCK),
        ],
    }


def test_a_backup_onto_damaged_digests_warns_and_can_be_verified(lab):
    result = lab.capture()
    assert result.point.type == "incremental"
    assert "0001-full.digests is damaged" in " ".join(result.warnings)
    assert result.point.stored_bytes == 6 * BLOCK  # what point 1 alone knows of
    lab.check_ours(result.point)
    assert findings(lab)[4] == []
    assert lab.capture().warnings == ()


def test_a_merge_with_damaged_digests_is_refused_before_it_begins(lab):
    before = lab.files
    with pytest.raises(DamagedDigests, match=r"0001-full\.digests is damaged") as refusal:
        lab.merge(point(lab, 2))
    assert refusal.value.remedy is Remedy.REPAIR
    assert lab.files == before


def test_a_restore_with_damaged_digests_refuses_or_says_what_it_could_not_check(lab, tmp_path):
    with pytest.raises(Damaged, match=r"0001-full\.digests is damaged"):
        restored(lab, tmp_path / "refused", ignore_damage=False)
    assert not (tmp_path / "refused").exists()
    warnings = restored(lab, tmp_path / "all.raw", ignore_damage=True)
    assert len(warnings) == 7
    assert all("could not be checked: 0001-full.digests is damaged" in each for each in warnings)
    assert (tmp_path / "all.raw").read_bytes() == lab.moments[point(lab, 2).id].read_bytes()


def test_repair_computes_damaged_digests_anew(lab):
    (sentence,) = repair.run(lab.repository.path, Task()).done
    assert "the digests of point 1 were computed anew" in sentence
    assert set(findings(lab)) == {1, 2, 3}
    assert not any(findings(lab).values())
    merged = lab.merge(point(lab, 2))
    lab.check_ours(merged)


def test_repair_leaves_digests_of_a_newer_version_alone(lab):
    repair.run(lab.repository.path, Task())
    overwrite(digests_of(lab, 2), 8, struct.pack("<I", 4))
    before = digests_of(lab, 2).read_bytes()
    said = repair.run(lab.repository.path, Task())
    assert "0002-incremental.digests is of a newer version" in " ".join(map(str, said.undone))
    assert digests_of(lab, 2).read_bytes() == before
