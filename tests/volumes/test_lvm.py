"""Logical volumes are where LVM's own tools put them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sources.loops import detach
from tests.volumes import volumes
from tests.volumes.volumes import MIB
from vdbackup.disks.chain import Chain
from vdbackup.recovery.browse import FileBrowser
from vdbackup.volumes import lvm
from vdbackup.volumes.volumes import Volumes

FIRST, SECOND = (MIB, 240 * MIB), (241 * MIB, 40 * MIB)
"""Where the two physical volumes lie on the disk, offset and length in bytes."""


@contextlib.contextmanager
def loops(image: Path) -> Iterator[list[str]]:
    """The physical volumes as devices."""
    found: list[str] = []
    try:
        for offset, length in (FIRST, SECOND):
            place = f"--offset={offset}", f"--sizelimit={length}"
            found.append(volumes.run("losetup", "--find", "--show", *place, image).strip())
        yield found
    finally:
        for device in found:
            detach(Path(device))


def tool(name: str, devices: list[str], *arguments: str) -> str:
    """One of LVM's, without device-mapper, which sees these devices and no other test's.

    Without hints, which say where another command found volumes: devices that came since are then
    passed over.
    """
    seen = ", ".join(f'"a|^{device}$|"' for device in devices)
    config = (
        f'global{{activation=0}} devices{{use_devicesfile=0 hints="none" filter=[{seen}, "r|.*|"]}}'
    )
    done = subprocess.run(
        ["lvm", name, "--config", config, "--quiet", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"LVM_SUPPRESS_FD_WARNINGS": "1", "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def group(as_root: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of two physical volumes: root has two segments, and one volume lies in stripes."""
    image = tmp_path_factory.mktemp("lvm") / "disk.img"
    volumes.blank(image, 288 * MIB)
    script = "".join(f"start={at // 512}, size={length // 512}\n" for at, length in (FIRST, SECOND))
    volumes.partition(image, f"label: gpt\n{script}")
    with loops(image) as devices:
        tool("pvcreate", devices, *devices)
        tool("vgcreate", devices, "my-vg", *devices)
        for name, extents in (("swap", "3"), ("root", "10"), ("home", "2")):
            tool("lvcreate", devices, "-an", "-Zn", "-Wn", "-n", name, "-l", extents, "my-vg",
                 devices[0])  # fmt: skip
        tool("lvextend", devices, "-l", "+10", "my-vg/root", devices[0])
        tool("lvcreate", devices, "-an", "-Zn", "-Wn", "-i", "2", "-n", "twice", "-l", "2", "my-vg")
    return image


def where_lvm_says(image: Path, name: str) -> list[tuple[int, int]]:
    """Offset and length in bytes of each segment, by LVM's own report."""
    with loops(image) as devices:
        report = json.loads(
            tool(
                "lvs",
                devices,
                "--reportformat",
                "json",
                "--segments",
                "--units",
                "b",
                "--nosuffix",
                "-o",
                "lv_name,seg_start,seg_size,seg_pe_ranges",
                "my-vg",
            )
        )
        (facts,) = json.loads(
            tool(
                "pvs",
                devices,
                "--reportformat",
                "json",
                "--units",
                "b",
                "--nosuffix",
                "-o",
                "pe_start,vg_extent_size",
                devices[0],
            )
        )["report"][0]["pv"]
    found = []
    for segment in report["report"][0]["seg" if "seg" in report["report"][0] else "lv"]:
        if segment["lv_name"] == name:
            first = int(segment["seg_pe_ranges"].split(":")[1].split("-")[0])
            start = MIB + int(facts["pe_start"]) + first * int(facts["vg_extent_size"])
            found.append((start, int(segment["seg_size"])))
    return found


def test_linear_volumes_lie_where_lvm_says(group: Path) -> None:
    with Chain.open(group, "raw") as chain:
        places = Volumes(chain).by_name
    for name in ("swap", "root", "home"):
        assert list(places[f"my--vg-{name}"].runs) == where_lvm_says(group, name)
    assert len(places["my--vg-root"].runs) == 2


def test_what_is_not_linear_is_named_and_not_guessed(group: Path) -> None:
    with Chain.open(group, "raw") as chain:
        browser = FileBrowser(chain)
        problems = {volume.name: volume.problem for volume in browser.volumes()}
    assert "in stripes" in problems["my--vg-twice"]
    assert "It is a part of LVM" in problems["p2"]


def test_files_on_a_volume_in_two_segments_are_read(group: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(bytes(range(256)) * (60 * MIB // 256))
    volume = tmp_path / "volume.img"
    volumes.ext("ext4", size=80 * MIB)(tree, volume)
    disk = tmp_path / "disk.img"
    disk.write_bytes(group.read_bytes())
    content = volume.read_bytes()
    with disk.open("r+b") as file:
        for start, length in where_lvm_says(group, "root"):
            file.seek(start)
            file.write(content[:length])
            content = content[length:]
    with Chain.open(disk, "raw") as chain:
        root = Volumes(chain).root("my--vg-root")
        (large,) = [node for node in root.children() if node.name == "large"]
        found = large.content()
        found.stream.seek(0)
        assert found.stream.read(found.size) == (tree / "large").read_bytes()


@pytest.fixture(scope="module")
def head(group: Path) -> bytes:
    with group.open("rb") as file:
        file.seek(MIB)
        return file.read(2 * MIB)


def test_a_group_whose_metadata_are_damaged_has_no_volumes(head: bytes, tmp_path: Path) -> None:
    place = head.rindex(b"segment_count")
    disk = tmp_path / "disk.img"
    disk.write_bytes(head[:place] + b"S" + head[place + 1 :])
    with Chain.open(disk, "raw") as chain:
        assert list(Volumes(chain).by_name) == [""]


@given(st.integers(0, 2 * MIB - 1), st.binary(min_size=1, max_size=8))
def test_no_damage_does_harm(head: bytes, place: int, new: bytes) -> None:
    used = [range(512, 1024), range(4096, 4608), range(4608, 8192)]
    place = [at for each in used for at in each][place % sum(map(len, used))]
    data = head[:place] + new + head[place + len(new) :]
    lvm.logical_volumes(io.BufferedReader(io.BytesIO(data)), [0])  # type: ignore[arg-type]


@given(
    st.lists(
        st.sampled_from(["a", "{", "}", "=", "[", "]", ",", '"x', '"x"', "1", "-9", "#\n", "\n"])
    )
)
def test_no_text_does_harm(words: list[str]) -> None:
    with contextlib.suppress(lvm.Damaged):
        lvm.parse(" ".join(words))


def test_a_disk_that_is_all_lvm_shows_its_logical_volumes(head: bytes, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(head)
    os.truncate(disk, 240 * MIB)
    with Chain.open(disk, "raw") as chain:
        browser = FileBrowser(chain)
        shown = [entry.name for entry in browser.listing()]
        problems = {volume.name: volume.problem for volume in browser.volumes()}
    assert shown == list(problems) == [f"my--vg-{n}" for n in ("swap", "root", "home", "twice")]
    assert "in stripes" in problems["my--vg-twice"]


def test_a_physical_volume_without_logical_ones_says_so(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    volumes.blank(disk, 32 * MIB)
    label = bytearray(512)
    label[:8], label[8:16], label[20:32] = b"LABELONE", b"\1" + bytes(7), b"\x20\0\0\0LVM2 001"
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(label)
    with Chain.open(disk, "raw") as chain:
        (volume,) = FileBrowser(chain).volumes()
    assert volume.problem == (
        "It is a part of LVM, and no logical volume is described on this disk."
    )


def test_a_snapshot_is_not_taken_for_what_its_store_holds() -> None:
    segment = {"segment_count": 1, "segment1": {
        "type": "striped", "start_extent": 0, "extent_count": 1, "stripe_count": 1,
        "stripes": ["pv0", 0]}}  # fmt: skip
    visible = {"status": ["VISIBLE"], **segment}
    group = {"vg": {
        "extent_size": 8192,
        "physical_volumes": {"pv0": {"id": "x", "pe_start": 2048}},
        "logical_volumes": {
            "root": visible, "kept": visible,
            "snapshot0": {"status": [], "segment1": {
                "type": "snapshot", "origin": "root", "cow_store": "kept"}}},
    }}  # fmt: skip
    found = {volume.name: volume for volume in lvm._group(group, {"x": 0})}
    assert found["root"].problem == ""
    assert found["root"].has_snapshot
    assert not found["kept"].has_snapshot
    assert "a snapshot of another volume" in found["kept"].problem
