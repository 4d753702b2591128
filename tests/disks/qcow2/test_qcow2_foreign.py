"""QCOW2 as others write it: what qemu-img and qemu-io made, read by us, and what is refused."""

from __future__ import annotations

import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.disks.shelf import GRAIN, MIB, contents
from tests.noise import noise
from tests.oracles import qemu
from vdbackup.disks.chain import Chain
from vdbackup.disks.extents import State, total
from vdbackup.disks.qcow2.disk import Qcow2Disk
from vdbackup.errors import DiskError, DiskFormatError, ParentError

SIZE = 12 * MIB + 512
LAYOUTS = {
    "defaults": "",
    "version 2": "compat=0.10",
    "small clusters": "cluster_size=512",
    "small clusters in version 2": "compat=0.10,cluster_size=512",
    "clusters of 4 KiB": "cluster_size=4k",
    "large clusters": "cluster_size=2M",
    "refcounts of one bit": "refcount_bits=1",
    "refcounts of 64 bits": "refcount_bits=64",
    "lazy refcounts": "lazy_refcounts=on",
    "subclusters": "extended_l2=on",
    "small subclusters": "extended_l2=on,cluster_size=16k",
    "large subclusters": "extended_l2=on,cluster_size=2M",
    "Zstandard": "compression_type=zstd",
    "Zstandard in large clusters": "compression_type=zstd,cluster_size=2M",
    "Zstandard and subclusters": "compression_type=zstd,extended_l2=on",
}
WRITABLE = {"defaults", "lazy refcounts", "Zstandard"}
PREALLOCATIONS = ["metadata", "falloc", "full"]


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def io(path: Path, *commands: str) -> None:
    qemu.io(path, *commands, disk_format="qcow2")


def made(path: Path, options: str = "", size: int = SIZE, backing: str | None = None) -> Path:
    """A new disk; `backing` is a name in the same folder, whose suffix says its format."""
    parent = ["-b", backing, "-F", backing.rpartition(".")[2]] if backing else []
    qemu_img("create", "-q", "-f", "qcow2", *parent, *_options(options), path, size)
    return path


def _options(options: str) -> list[str]:
    return ["-o", options] if options else []


def converted(disk: Path) -> bytes:
    """What QEMU reads, as raw bytes."""
    raw = disk.with_suffix(".converted")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, raw)
    return raw.read_bytes()


def source(folder: Path) -> Path:
    """A raw disk of noise, zeros, and what is worth compressing, in clusters of each size."""
    path = folder / "source.raw"
    data = noise(MIB, 1) + b"compressible " * 100_000 + noise(100, 2)
    path.write_bytes(data.ljust(6 * MIB, b"\0") + noise(512, 3))
    return path


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_disk_that_qemu_wrote_is_read_as_qemu_reads_it(tmp_path, options):
    disk = made(tmp_path / "disk.qcow2", options)
    io(disk, "write -P 1 0 512", f"write -P 2 {SIZE - 512} 512", "write -P 3 5M 1234k")
    io(disk, "write -P 4 200k 70k", "discard 5200k 300k", "write -P 5 5300k 1k")
    data = contents(disk, "qcow2")
    assert len(data) == SIZE
    assert data == converted(disk)
    assert data[5 * MIB] == 3


@pytest.mark.parametrize("compressed", [[], ["-c"]], ids=["plain", "compressed"])
@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_disk_that_qemu_converted_is_read(tmp_path, options, compressed):
    raw, disk = source(tmp_path), tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *compressed, *_options(options), raw, disk)
    assert contents(disk, "qcow2") == raw.read_bytes()


@pytest.mark.parametrize("preallocation", PREALLOCATIONS)
def test_a_disk_whose_clusters_are_there_from_the_start_is_read(tmp_path, preallocation):
    disk = made(tmp_path / "disk.qcow2", f"preallocation={preallocation}")
    io(disk, "write -P 4 200k 70k")
    assert contents(disk, "qcow2") == converted(disk)


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_layouts_like_ours_are_written_to(tmp_path, name):
    disk = made(tmp_path / "disk.qcow2", LAYOUTS[name])
    io(disk, "write -P 4 200k 70k")
    before, wanted = disk.read_bytes(), bytearray(contents(disk, "qcow2"))
    if name not in WRITABLE:
        with pytest.raises(DiskError, match="only read") as refusal:
            Qcow2Disk.open(disk, writable=True)
        assert refusal.value.advice
        assert disk.read_bytes() == before
        return
    with closing(Qcow2Disk.open(disk, writable=True)) as ours:
        ours.write(2 * GRAIN, memoryview(noise(4 * GRAIN, 1)))
        ours.flush()
    wanted[2 * GRAIN : 6 * GRAIN] = noise(4 * GRAIN, 1)
    assert contents(disk, "qcow2") == converted(disk) == wanted
    qemu.assert_sound(disk, "qcow2")


@pytest.mark.parametrize("options", ["", "extended_l2=on", "cluster_size=4k"])
def test_a_chain_that_qemu_wrote_is_read_as_qemu_reads_it(tmp_path, options):
    """Zeros over data, discards, parts of clusters, and compressed clusters in a child."""
    made(tmp_path / "a.qcow2", options)
    io(tmp_path / "a.qcow2", "write -P 1 0 8M")
    made(tmp_path / "b.qcow2", options, backing="a.qcow2")
    io(tmp_path / "b.qcow2", "write -P 2 100k 3k", "write -z 1M 1M", "write -z -u 3M 100k")
    made(tmp_path / "c.qcow2", options, backing="b.qcow2")
    io(tmp_path / "c.qcow2", "write -c -P 3 4M 64k", "write -P 4 1100k 8k", "discard 5M 1M")
    top = tmp_path / "c.qcow2"
    assert contents(top, "qcow2") == converted(top)
    with Chain.open(top) as chain:
        assert [layer.path.name for layer in chain.layers] == ["a.qcow2", "b.qcow2", "c.qcow2"]


@pytest.mark.parametrize("options", ["", "extended_l2=on"])
def test_a_map_says_which_zeros_hide_the_parent_and_which_parts_are_its(tmp_path, options):
    made(tmp_path / "a.qcow2")
    child = made(tmp_path / "b.qcow2", options, backing="a.qcow2")
    io(child, "write -z -u 64k 64k", "write -P 1 128k 64k")
    with closing(Qcow2Disk.open(child)) as disk:
        states = [(extent.length // GRAIN, extent.state) for extent in disk.block_map().extents()]
    assert states[:3] == [(1, State.UNALLOCATED), (1, State.ZERO), (1, State.DATA)]
    assert states[3][1] is State.UNALLOCATED


def test_subclusters_that_are_not_here_are_the_parents(tmp_path):
    made(tmp_path / "a.qcow2")
    child = made(tmp_path / "b.qcow2", "extended_l2=on", backing="a.qcow2")
    io(child, "write -P 1 6k 2k")
    with closing(Qcow2Disk.open(child)) as disk:
        assert disk.block_map().data_ranges().tolist() == [[6 << 10, 2 << 10]]


@pytest.mark.parametrize("parent_format", ["raw", "vmdk"])
@pytest.mark.parametrize("parent_size", [MIB, SIZE, SIZE + MIB])
def test_a_parent_in_another_format_and_of_another_size_is_read_through(
    tmp_path, parent_format, parent_size
):
    base = tmp_path / f"base.{parent_format}"
    qemu_img("create", "-q", "-f", parent_format, base, parent_size)
    qemu.io(base, f"write -P 1 0 {parent_size}", disk_format=parent_format)
    child = made(tmp_path / "child.qcow2", backing=base.name)
    io(child, "write -P 2 100k 3k")
    assert contents(child, "qcow2") == converted(child)


def test_a_parent_whose_format_nobody_says_is_taken_for_qcow2(tmp_path):
    """Old QEMU wrote none and guessed, which let a guest choose what its raw disk is read as."""
    made(tmp_path / "a.qcow2")
    io(tmp_path / "a.qcow2", "write -P 1 0 8M")
    child = made(tmp_path / "b.qcow2", backing="a.qcow2")
    data = bytearray(child.read_bytes())
    at = data.index(b"\xe2\x79\x2a\xca")
    data[at : at + 4] = b"none"
    child.write_bytes(data)
    with closing(Qcow2Disk.open(child)) as disk:
        assert disk.info.parent.disk_format is None
        assert (disk.info.disk_id, disk.info.content_id) == (None, "")
    assert contents(child, "qcow2") == contents(tmp_path / "a.qcow2", "qcow2")


@pytest.mark.parametrize(
    "name",
    [
        "nbd://localhost:1/x",
        "json:{}",
        "json:[1]",
        'json:{"file":"node"}',
        "nbd:unix:/x",
        'json:{"driver":"null-co"}',
        'json:{"driver":"file","filename":"a.qcow2"}',
        'json:{"driver":"qcow2","file":{"driver":"nbd","path":"a.qcow2"}}',
        'json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"a.qcow2"}}',
        'json:{"driver":"qcow2","backing":null,"file.filename":"a.qcow2"}',
    ],
)
def test_a_parent_that_is_not_a_file_is_refused_by_a_sentence(tmp_path, name):
    disk = made(tmp_path / "disk.qcow2")
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", name, "-F", "raw", disk)
    with pytest.raises(ParentError, match="not a file") as refusal:
        Chain.open(disk)
    assert "rebase" in refusal.value.advice


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        ("file:a.qcow2", "qcow2"),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}', "qcow2"),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"FOLDER/a.qcow2"}}', None),
        ('json:{"driver":"qcow2","file.driver":"file","file.filename":"a.qcow2"}', None),
        ('json:{"driver":"raw","file":{"driver":"file","filename":"a.qcow2"}}', "qcow2"),
        ('json:{"driver":"qcow2","read-only":true,"file":{"filename":"a.qcow2","aio":"io_uring"}}',
         None),
    ],
)  # fmt: skip
def test_a_parent_that_is_named_as_libvirt_does_is_read_as_qemu_reads_it(
    tmp_path, monkeypatch, name, driver
):
    monkeypatch.chdir(tmp_path)  # where QEMU looks for what "json:" names
    made(tmp_path / "a.qcow2")
    io(tmp_path / "a.qcow2", "write -P 1 0 8M")
    disk = made(tmp_path / "disk.qcow2")
    io(disk, "write -P 2 1M 1M")
    name = name.replace("FOLDER", str(tmp_path))
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", disk)
    if driver is None:
        data = bytearray(disk.read_bytes())
        at = data.index(b"\xe2\x79\x2a\xca")
        data[at : at + 4] = b"none"
        disk.write_bytes(data)
    assert contents(disk, "qcow2") == converted(disk)


def test_a_parents_name_that_is_no_text_is_named_by_a_sentence_that_every_log_takes(tmp_path):
    disk = made(tmp_path / "disk.qcow2")
    rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", b"x\xff.img", "-F", "raw", disk]
    subprocess.run(rebase, check=True)
    with pytest.raises(ParentError, match="missing") as refusal:
        Chain.open(disk)
    assert refusal.value.title.encode()


def test_a_parent_in_a_format_that_we_do_not_know_is_refused(tmp_path):
    disk = made(tmp_path / "disk.qcow2")
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "a.qed", "-F", "qed", disk)
    with pytest.raises(ParentError, match="'qed'"):
        Chain.open(disk)


def test_internal_snapshots_leave_the_disk_readable_and_forbid_writing(tmp_path):
    disk = made(tmp_path / "disk.qcow2")
    io(disk, "write -P 1 0 1M")
    qemu_img("snapshot", "-c", "before", disk)
    io(disk, "write -P 2 64k 64k")
    assert contents(disk, "qcow2") == converted(disk)
    with pytest.raises(DiskError, match="only read"):
        Qcow2Disk.open(disk, writable=True)


def test_a_disk_that_qemu_resized_is_read_and_written_to(tmp_path):
    disk = made(tmp_path / "disk.qcow2", size=MIB)
    io(disk, "write -P 1 0 1M")
    qemu_img("resize", "-f", "qcow2", disk, 3 << 30)
    io(disk, "write -P 2 2G 64k")
    with closing(Qcow2Disk.open(disk, writable=True)) as ours:
        ours.write(1 << 30, memoryview(b"\3" * GRAIN))
        ours.flush()
    io(disk, "read -P 1 0 1M", "read -P 3 1G 64k", "read -P 0 1025M 64k", "read -P 2 2G 64k")
    qemu.assert_sound(disk, "qcow2")
    qemu_img("resize", "--shrink", "-f", "qcow2", disk, 100 << 10)
    assert contents(disk, "qcow2") == b"\1" * (100 << 10)


def test_a_disk_that_tracks_changes_for_another_program_is_not_written_to(tmp_path):
    disk = made(tmp_path / "disk.qcow2")
    qemu_img("bitmap", "-f", "qcow2", "--add", disk, "changes")
    contents(disk, "qcow2")
    before = disk.read_bytes()
    with pytest.raises(DiskError, match="tracks changes") as refusal:
        Qcow2Disk.open(disk, writable=True)
    assert "bitmap --remove" in refusal.value.advice
    assert disk.read_bytes() == before


@pytest.mark.parametrize("bit", [0, 1], ids=["dirty", "corrupt"])
def test_a_disk_that_was_not_closed_properly_is_read_and_not_written_to(tmp_path, bit):
    disk = made(tmp_path / "disk.qcow2")
    io(disk, "write -P 1 0 1M")
    with disk.open("r+b") as file:
        file.seek(79)
        file.write(bytes([1 << bit]))
    assert contents(disk, "qcow2")[: 2 * MIB] == b"\1" * MIB + bytes(MIB)
    with pytest.raises(DiskError) as refusal:
        Qcow2Disk.open(disk, writable=True)
    assert "qemu-img check -r all" in refusal.value.advice


def test_a_disk_that_keeps_its_data_in_another_file_is_refused(tmp_path):
    disk = made(tmp_path / "disk.qcow2", f"data_file={tmp_path / 'data.raw'}")
    with pytest.raises(DiskError, match="another file"):
        Chain.open(disk)


def test_an_encrypted_disk_is_refused(tmp_path):
    disk = tmp_path / "disk.qcow2"
    secret = ["--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s"]
    qemu_img("create", "-q", "-f", "qcow2", *secret, disk, MIB)
    with pytest.raises(DiskError, match="encrypted") as refusal:
        Chain.open(disk)
    assert refusal.value.advice


def test_a_disk_of_the_format_before_is_refused_as_such(tmp_path):
    qemu_img("create", "-q", "-f", "qcow", tmp_path / "disk.qcow", MIB)
    with pytest.raises(DiskError, match="first QCOW format"):
        Chain.open(tmp_path / "disk.qcow")
    with pytest.raises(DiskFormatError, match="version 1"):
        Chain.open(tmp_path / "disk.qcow", "qcow2")


@pytest.mark.parametrize("options", ["", "compression_type=zstd", "cluster_size=2M"])
def test_compressed_clusters_are_read_in_any_pieces_by_several_threads(tmp_path, options):
    raw, disk = source(tmp_path), tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", *_options(options), raw, disk)
    wanted = raw.read_bytes()
    wrong: list[int] = []

    def read(chain: Chain, step: int) -> None:
        data = bytearray(step)
        for offset in range(step // 3, len(wanted) - step, step):
            chain.readinto(offset, memoryview(data))
            if data != wanted[offset : offset + step]:
                wrong.append(offset)

    with Chain.open(disk) as chain:
        assert total(chain.map.data_ranges()) < SIZE - MIB
        assert len(chain.map.starts) < 100  # neighbours that are compressed are one run
        threads = [
            threading.Thread(target=read, args=(chain, step)) for step in (50_000, 65536, 777_777)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
