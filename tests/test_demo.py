"""`vdbackup demo` tells the whole story, and proves each part of it."""

from __future__ import annotations

from pathlib import Path

from tests.oracles import qemu
from vdbackup.demo import Demo
from vdbackup.jobs import CancelToken
from vdbackup.repository.repository import Repository


def test_the_demo_boots_every_remaining_point_and_each_prints_its_own_message(tmp_path: Path):
    told: list[str] = []
    demo = Demo(tmp_path / "demo", told.append)
    proofs = demo.run(CancelToken())
    booted = [proof.evidence for proof in proofs if "boots" in proof.claim]
    assert [day for day in ("Monday", "Tuesday", "Wednesday") if any(day in b for b in booted)] == [
        "Tuesday",
        "Wednesday",
    ]
    assert all("backup unchanged" in evidence for evidence in booted)
    backup_set = Repository.open(demo.repository).set()
    for point in backup_set.points:
        restored = tmp_path / f"demo/restored-{point.sequence}.img"
        qemu.assert_holds(backup_set.overlay_path(point), restored)
    assert len(told) > len(proofs) / 2
