"""What a point could be restored to: where it came from first, what is refused last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backup.lab import Lab
from tests.noise import noise
from tests.sources.loops import loop, mounted, run
from tests.sources.opened import open_path
from vdbackup.backup import capture
from vdbackup.jobs import Task
from vdbackup.operations import restore
from vdbackup.sources.inventory import Content

MIB = 1 << 20
pytestmark = pytest.mark.usefixtures("as_root")


def test_the_source_comes_first_and_what_cannot_be_last(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 8 * MIB)
    lab.poke(0, noise(8 * MIB, 1))
    for name, size in (("large", 32), ("small", 4), ("used", 32)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size * MIB)
    run("mkfs.ext4", "-q", tmp_path / "used")
    with (
        loop(tmp_path / "large") as large,
        loop(tmp_path / "small") as small,
        loop(tmp_path / "used") as used,
        mounted(used, tmp_path / "mounted"),
        loop(lab.image) as source,
    ):
        with open_path(source) as opened:
            capture.run(capture.plan(lab.repository, opened, set_name="disk"), Task())
        found = restore.targets(lab.repository, "disk", 8 * MIB)
        by_path = {each.device.path: each for each in found}
        assert found[0].device.path == source
        assert [each.device.path for each in found if each.is_origin] == [source]
        assert by_path[large].refusal == ""
        assert by_path[large].device.contents == ()
        assert (
            by_path[small].refusal == f"{small} is too small: it has 4 MiB, and 8 MiB are needed."
        )
        assert by_path[used].refusal == f"{used} is mounted at {tmp_path / 'mounted'}."
        (content,) = by_path[used].device.contents
        assert content.filesystem in ("ext", "ext4")  # udev says more
        assert (content.number, content.size) == (0, 32 * MIB)
        assert content.mountpoints == (str(tmp_path / "mounted"),)
        refused = [bool(each.refusal) for each in found]
        assert refused == sorted(refused)


def test_the_partitions_of_a_point_are_named_by_what_lies_in_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 32 * MIB)
    run("sfdisk", "-q", lab.image, stdin="label: gpt\nsize=8M\nsize=16M\n")
    run("mkfs.ext4", "-q", "-E", f"offset={9 * MIB}", lab.image, "16M")
    point = lab.backup()
    assert restore.parts(lab.repository, "disk", point.id) == (
        Content(1, 8 * MIB, ""),
        Content(2, 16 * MIB, "ext"),
    )
