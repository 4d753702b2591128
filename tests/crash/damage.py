"""What is the matter with a repository before the stories in which it is repaired."""

from __future__ import annotations

import os

from tests.backup.lab import Lab
from vdbackup.repository.model import RecoveryPoint

_OTHER_ID = "12345678-0000-4000-8000-000000000000"
_OTHER_CONTENT = {
    "vmdk": "0badcafe",
    "vhd": "00000007",
    "vhdx": "87654321-0000-4000-8000-000000000000",
    "qcow2": "87654321-0000-4000-8000-000000000000",
}


def lose_the_catalogue(lab: Lab) -> None:
    """Only the layers are left of the set."""
    for path in lab.set_folder.iterdir():
        if path.stat().st_mode & 0o777 != 0o444:
            path.unlink()


def damage_one_of_each(lab: Lab) -> None:
    """Every kind of file is there once that is not readable any more, the last layer among them."""
    for name in damaged_files(lab.disk_format):
        path = lab.set_folder / name
        mode = path.stat().st_mode
        path.chmod(0o600)
        path.write_bytes(b"x" * path.stat().st_size)
        path.chmod(mode)


def damaged_files(disk_format: str) -> tuple[str, ...]:
    """Those, in the set's folder."""
    return (
        "set.json",
        f"0002-overlay.{disk_format}",
        "0003-incremental.json",
        "0004-incremental.digests",
        f"0005-full.{disk_format}",
    )


def damage_the_newest(lab: Lab) -> None:
    """Its manifest is not readable, and its digests are gone."""
    newest = lab.set.points[-1]
    (lab.set_folder / newest.disk).with_suffix(".json").write_text("{")
    (lab.set_folder / newest.digests).unlink()


def merge_half_beside_a_damaged_manifest(lab: Lab) -> None:
    """The third was on its way into the second when that of the first was damaged."""
    lab.merge_half(next(point for point in lab.set.points if point.sequence == 3))
    (lab.set_folder / "0001-full.json").write_text("{")


def open_by_another_program(lab: Lab, point: RecoveryPoint) -> None:
    """A layer has another identity since, so that its children do not know it."""
    layer = lab.layer(point)
    before = layer.stat()
    layer.chmod(0o600)
    disk = lab.open(layer, writable=True)
    disk.adopt(_OTHER_ID, _OTHER_CONTENT[lab.disk_format])
    disk.close()
    os.utime(layer, ns=(before.st_atime_ns, before.st_mtime_ns))
    layer.chmod(before.st_mode)
