"""LVM with ext4 in it on a disk of another size; LVM's own program, and e2fsck, look at it."""

from __future__ import annotations

import itertools
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.backup.lab import Lab
from tests.recovery.test_resize import identities, places, planned, restored, sized, tree
from tests.sources.loops import loop, run
from vdbackup.errors import NotResized
from vdbackup.recovery import volume_sizes

MIB = 1 << 20
PART = 200
CONFIG = (
    "global { use_lvmpolld=0 } devices { use_devicesfile=0 } "
    "activation { udev_sync=0 udev_rules=0 monitoring=0 } backup { backup=0 archive=0 }"
)
pytestmark = pytest.mark.usefixtures("as_root")


def lvm(device: Path, *words: str | Path) -> str:
    """LVM with one device and no device-mapper: no volume appears on this computer."""
    command, *rest = words
    only = ("--driverloaded", "n", "--devices", device, "--config", CONFIG)
    return run("lvm", command, *only, *rest)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tree(tmp_path / "files")


class Volumes:
    """A partition with LVM: root (the largest, in two pieces), then swap, then home."""

    def __init__(self, part: Path, files: Path, copies: int = 1) -> None:
        with part.open("wb") as file:
            file.truncate(PART * MIB)
        with loop(part) as device:
            lvm(device, "pvcreate", "--yes", "--metadatacopies", str(copies), device)
            lvm(device, "vgcreate", "vg", device)
            for name, size in (("root", "60M"), ("swap", "8M"), ("home", "56M")):
                made = ("--yes", "--activate", "n", "--zero", "n", "--wipesignatures", "n")
                lvm(device, "lvcreate", *made, "--name", name, "--size", size, "vg")
            lvm(device, "lvextend", "--size", "+20M", "vg/root")
        self.ids = ids(part)
        for name in ("root", "home"):
            image = part.with_name(name)
            with image.open("wb") as file:
                file.truncate(size_of(part, name))
            run("mkfs.ext4", "-q", "-L", name, "-E", "root_owner=0:0", "-d", files, image)
            put(part, name, image.read_bytes())


def report(part: Path) -> list[dict[str, Any]]:
    with loop(part) as device:
        said = lvm(device, "pvs", "--segments", "--reportformat", "json", "--units", "b",
                   "--nosuffix", "-o", "lv_name,lv_uuid,pv_uuid,vg_uuid,pvseg_start,pvseg_size,"
                   "seg_start_pe,pe_start,vg_extent_size,pv_size")  # fmt: skip
    rows: list[dict[str, Any]] = json.loads(said[said.index("{") :])["report"][0]["pvseg"]
    return rows


def ids(part: Path) -> set[tuple[str, ...]]:
    return {
        (each["lv_name"], each["lv_uuid"], each["pv_uuid"], each["vg_uuid"])
        for each in report(part)
        if each["lv_name"]
    }


def runs(part: Path, name: str) -> list[tuple[int, int]]:
    rows = [each for each in report(part) if each["lv_name"] == name]
    rows.sort(key=lambda each: int(each["seg_start_pe"]))
    return [
        (
            int(each["pe_start"]) + int(each["pvseg_start"]) * int(each["vg_extent_size"]),
            int(each["pvseg_size"]) * int(each["vg_extent_size"]),
        )
        for each in rows
    ]


def size_of(part: Path, name: str) -> int:
    return sum(length for _, length in runs(part, name))


def put(part: Path, name: str, data: bytes) -> None:
    with part.open("r+b") as file:
        for at, length in runs(part, name):
            file.seek(at)
            file.write(data[:length])
            data = data[length:]


def got(part: Path, name: str) -> bytes:
    data = b""
    with part.open("rb") as file:
        for at, length in runs(part, name):
            file.seek(at)
            data += file.read(length)
    return data


def lab_with(files: Path, tmp_path: Path, copies: int = 1) -> tuple[Lab, Volumes]:
    lab = Lab(tmp_path, (PART + 4) * MIB, disk_format="qcow2")
    script = f"label: gpt\nstart=1M,size={PART}M,type=E6D6D379-F507-44C2-A23C-238F2A3DF928\n"
    run("sfdisk", "-q", lab.image, stdin=script)
    volumes = Volumes(tmp_path / "part", files, copies)
    lab.poke(MIB, (tmp_path / "part").read_bytes())
    return lab, volumes


@pytest.fixture
def made(files: Path, tmp_path: Path) -> tuple[Lab, Volumes]:
    lab, volumes = lab_with(files, tmp_path)
    lab.backup()
    return lab, volumes


def assert_whole(target: Path, volumes: Volumes, files: Path, tmp_path: Path) -> Path:
    """All is there, by LVM and e2fsck; the physical volume as a file."""
    ((start, size),) = places(target)
    part = tmp_path / "restored"
    with target.open("rb") as source:
        source.seek(start * MIB)
        part.write_bytes(source.read(size * MIB))
    with loop(part) as device:
        lvm(device, "vgck", "vg")
        lvm(device, "pvck", device)
    assert ids(part) == volumes.ids
    for name in ("root", "home"):
        image, seen = tmp_path / f"{name}-restored", tmp_path / f"{name}-seen"
        image.write_bytes(got(part, name))
        run("e2fsck", "-f", "-n", image)
        seen.mkdir()
        run("debugfs", "-R", f'rdump / "{seen}"', image)
        (seen / "lost+found").rmdir()
        run("diff", "--recursive", files, seen)
        blocks = run("dumpe2fs", "-h", image).split("Block count:")[1].split()[0]
        unit = run("dumpe2fs", "-h", image).split("Block size:")[1].split()[0]
        assert int(blocks) * int(unit) == image.stat().st_size
    return part


def test_the_largest_volume_takes_what_a_larger_disk_has_more(
    made: tuple[Lab, Volumes], files: Path, tmp_path: Path
) -> None:
    lab, volumes = made
    target = sized(tmp_path / "target.img", 400 * MIB)
    plan = planned(lab, target)
    assert "Partition 1 (LVM) becomes larger: 398 MiB instead of 200 MiB." in plan.summary
    restored(lab, target)
    assert places(target) == [(1, 398)]
    assert identities(target) == identities(lab.image)
    part = assert_whole(target, volumes, files, tmp_path)
    assert size_of(part, "root") == (80 + 200) * MIB  # what was free is free still
    assert size_of(part, "home") == 56 * MIB


def test_what_is_free_behind_it_and_the_last_ext4_can_spare_is_given_up(
    made: tuple[Lab, Volumes], files: Path, tmp_path: Path
) -> None:
    lab, volumes = made
    before = lab.files
    with pytest.raises(NotResized, match=r"has 40 MiB, and the disk needs \d+ MiB") as refused:
        planned(lab, sized(tmp_path / "target.img", 40 * MIB))
    needed = int(refused.value.title.split()[-4])
    assert needed < 148  # up to where the last extent ended
    target = sized(tmp_path / "target.img", (needed + 1) * MIB)
    restored(lab, target)
    part = assert_whole(target, volumes, files, tmp_path)
    assert size_of(part, "root") < 80 * MIB
    assert lab.files == before
    lab.check_all()


def test_one_of_several_physical_volumes_is_left_as_it_is(files: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path, (PART + 4) * MIB, disk_format="qcow2")
    run("sfdisk", "-q", lab.image, stdin=f"label: gpt\nstart=1M,size={PART}M,type=V\n")
    parts = [tmp_path / "one", tmp_path / "other"]
    for each in parts:
        with each.open("wb") as file:
            file.truncate(PART * MIB)
    with loop(parts[0]) as one, loop(parts[1]) as other:
        for each in (one, other):
            lvm(each, "pvcreate", "--yes", each)
        only = ("--driverloaded", "n", "--devices", f"{one},{other}", "--config", CONFIG)
        run("lvm", "vgcreate", *only, "vg", one, other)
    lab.poke(MIB, parts[0].read_bytes())
    lab.backup()
    with pytest.raises(NotResized, match="Partition 1 cannot be made larger"):
        planned(lab, sized(tmp_path / "target.img", 400 * MIB), grown=1)
    with pytest.raises(NotResized) as refused:
        planned(lab, sized(tmp_path / "target.img", 100 * MIB))
    assert "Partition 1 (LVM) cannot be made smaller." in refused.value.advice


def test_metadata_behind_the_last_extent_have_room_on_a_smaller_disk(
    files: Path, tmp_path: Path
) -> None:
    lab, volumes = lab_with(files, tmp_path, copies=2)
    lab.backup()
    with pytest.raises(NotResized, match="the disk needs") as refused:
        planned(lab, sized(tmp_path / "target.img", 40 * MIB))
    needed = int(refused.value.title.split()[-4])
    target = sized(tmp_path / "target.img", (needed + 1) * MIB)
    restored(lab, target)
    assert_whole(target, volumes, files, tmp_path)


def test_what_a_hibernated_system_has_in_its_memory_is_not_changed(
    files: Path, tmp_path: Path
) -> None:
    lab, _ = lab_with(files, tmp_path)
    ((at, _),) = runs(tmp_path / "part", "swap")
    lab.poke(MIB + at + 4096 - 10, b"S1SUSPEND\0")
    lab.backup()
    for size in (150, 400):
        with pytest.raises(NotResized, match="hibernated"):
            planned(lab, sized(tmp_path / "target.img", size * MIB))


def test_what_is_not_to_be_written_to_is_not(files: Path, tmp_path: Path) -> None:
    lab, _ = lab_with(files, tmp_path)
    with loop(tmp_path / "part") as device:
        lvm(device, "lvchange", "--permission", "r", "vg/root")
    lab.poke(MIB, (tmp_path / "part").read_bytes())
    lab.backup()
    target = sized(tmp_path / "target.img", 400 * MIB)
    restored(lab, target)
    part = tmp_path / "seen"
    with target.open("rb") as source:
        source.seek(MIB)
        part.write_bytes(source.read(398 * MIB))
    assert size_of(part, "root") == 80 * MIB
    assert got(part, "root") == got(tmp_path / "part", "root")
    assert size_of(part, "home") == (56 + 200) * MIB


def volume(name: str, status: str, segment: str, extents: int) -> str:
    """A logical volume as LVM's metadata have it."""
    tail = uuid.uuid4().hex
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    identity = "-".join(tail[a:b] for a, b in itertools.pairwise(cuts))
    return (
        f'{name} {{ id = "{identity}" status = [{status}] flags = [] segment_count = 1 '
        f"segment1 {{ start_extent = 0 extent_count = {extents} {segment} }} }}"
    )


def linear(name: str, first: int, extents: int, status: str = '"READ", "WRITE"') -> str:
    stripes = f'type = "striped" stripe_count = 1 stripes = ["pv0", {first}]'
    return volume(name, status, stripes, extents)


SEEN = '"READ", "WRITE", "VISIBLE"'
KINDS = {
    "thin": (
        volume(
            "pool", SEEN,
            'type = "thin-pool" metadata = "pool_tmeta" pool = "pool_tdata" transaction_id = 0 '
            'chunk_size = 128 discards = "passdown" zero_new_blocks = 1', 4,
        ),
        volume(
            "thin", SEEN,
            'type = "thin" thin_pool = "pool" transaction_id = 0 device_id = 1', 100,
        ),
        linear("pool_tmeta", 36, 1),
        linear("pool_tdata", 37, 4),
    ),
    "RAID": (
        volume(
            "mirrored", SEEN,
            'type = "raid1" device_count = 2 region_size = 1024 raids = ["mirrored_rmeta_0", '
            '"mirrored_rimage_0", "mirrored_rmeta_1", "mirrored_rimage_1"]', 2,
        ),
        linear("mirrored_rmeta_0", 36, 1),
        linear("mirrored_rimage_0", 37, 2),
        linear("mirrored_rmeta_1", 39, 1),
        linear("mirrored_rimage_1", 40, 2),
    ),
    "snapshot": (
        linear("store", 36, 3, SEEN),
        volume(
            "snapshot0", '"READ", "WRITE"',
            'type = "snapshot" chunk_size = 8 origin = "root" cow_store = "store"', 20,
        ),
    ),
}  # fmt: skip
"""What lies behind the ext4s, in the metadata's own words."""


def describe(part: Path, volumes: tuple[str, ...]) -> None:
    """Have LVM take these, too, for a volume group's: it makes none of them without a kernel's."""
    file = part.with_suffix(".vg")
    with loop(part) as device:
        lvm(device, "vgcfgbackup", "--file", file, "vg")
        text = file.read_text().replace(
            "logical_volumes {", "logical_volumes {\n" + "\n".join(volumes)
        )
        file.write_text(text)
        lvm(device, "vgcfgrestore", "--force", "--yes", "--file", file, "vg")


def lab_beside(kind: str, files: Path, tmp_path: Path) -> tuple[Lab, Volumes]:
    """One in whose volume group volumes of that kind lie, too; backed up."""
    lab, volumes = lab_with(files, tmp_path)
    describe(tmp_path / "part", KINDS[kind])
    lab.poke(MIB, (tmp_path / "part").read_bytes())
    lab.backup()
    return lab, volumes


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_of_other_kinds_stay_as_they_are_and_what_they_take_is_not_given_up(
    kind: str, files: Path, tmp_path: Path
) -> None:
    lab, volumes = lab_beside(kind, files, tmp_path)
    kept = report(tmp_path / "part")
    with pytest.raises(NotResized, match=r"has 100 MiB, and the disk needs \d+ MiB") as refused:
        planned(lab, sized(tmp_path / "target.img", 100 * MIB))
    needed = int(refused.value.title.split()[-4])
    last = max(int(each["pvseg_start"]) + int(each["pvseg_size"])
               for each in kept if each["lv_name"])  # fmt: skip
    assert needed >= 2 + 4 * last  # the table, then LVM's own MiB, then all that is taken
    target = sized(tmp_path / "target.img", (needed + 1) * MIB)
    restored(lab, target)
    volumes.ids = ids(tmp_path / "part")
    part = assert_whole(target, volumes, files, tmp_path)
    assert places_of(part) == places_of(tmp_path / "part")


@pytest.mark.parametrize("kind", KINDS)
def test_beside_them_the_largest_plain_ext4_takes_what_is_new(
    kind: str, files: Path, tmp_path: Path
) -> None:
    lab, volumes = lab_beside(kind, files, tmp_path)
    target = sized(tmp_path / "target.img", 400 * MIB)
    restored(lab, target)
    volumes.ids = ids(tmp_path / "part")
    part = assert_whole(target, volumes, files, tmp_path)
    larger, other = ("home", "root") if kind == "snapshot" else ("root", "home")
    assert size_of(part, larger) == size_of(tmp_path / "part", larger) + 200 * MIB
    before = places_of(tmp_path / "part")
    assert {each for each in before if each[0] != larger} == {
        each for each in places_of(part) if each[0] != larger
    }
    assert size_of(part, other) == size_of(tmp_path / "part", other)


def places_of(part: Path) -> set[tuple[str, str, str]]:
    return {
        (each["lv_name"], each["pvseg_start"], each["pvseg_size"])
        for each in report(part)
        if each["lv_name"]
    }


@pytest.mark.parametrize(
    ("version", "words"), [("2.03.16(2)", ()), ("2.03.17(2)", ("--fs", "ignore"))]
)
def test_newer_lvm_is_told_that_no_volume_is_active(
    version: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"  LVM version:     {version} (2022-11-10)\n".encode()
    monkeypatch.setattr(volume_sizes, "run", lambda *_: said)
    assert volume_sizes._mind_no_fs() == words
