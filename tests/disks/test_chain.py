"""Chains: what a child may name as its parent, and what happens where that is not there."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks.shelf import GRAIN, MIB, Shelf, contents, reference
from tests.noise import noise
from tests.oracles import qemu
from vdbackup.disks.chain import Chain, read_pieces
from vdbackup.disks.disk import ParentRef
from vdbackup.disks.vmdk.disk import VmdkDisk
from vdbackup.errors import DiskError, ParentError

SIZE = 8 * GRAIN + 512


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path, SIZE)
    shelf.add("a.vmdk", (0, noise(SIZE, 1)))
    shelf.add("b.vmdk", (GRAIN, noise(2 * GRAIN, 2)))
    shelf.add("c.vmdk", (2 * GRAIN, GRAIN), (8 * GRAIN, noise(512, 3)))
    return shelf


def relink(path: Path, parent: ParentRef) -> None:
    disk = VmdkDisk.open(path, writable=True)
    disk.relink(parent)
    disk.close()


def hinting(path: Path, hint: str) -> None:
    """Let the disk name its parent so, with whatever is in the name."""
    data = path.read_bytes()
    line = next(li for li in data[512:10752].split(b"\n") if li.startswith(b"parentFileNameHint"))
    forged = b'parentFileNameHint="' + hint.encode() + b'"'
    text = data[512:10752].rstrip(b"\0").replace(line, forged)
    path.write_bytes(data[:512] + text.ljust(10240, b"\0") + data[10752:])


def refused(path: Path) -> DiskError:
    with pytest.raises(DiskError) as refusal:
        Chain.open(path)
    assert refusal.value.title
    assert refusal.value.advice
    return refusal.value


@given(st.integers(0, SIZE - 1), st.integers(0, SIZE))
def test_any_stretch_reads_as_what_the_newest_layer_holds(chain_and_raw, offset, length):
    chain, raw = chain_and_raw
    data = bytearray(min(length, SIZE - offset))
    chain.readinto(offset, memoryview(data))
    assert data == raw[offset : offset + len(data)]


@given(st.lists(st.tuples(st.integers(1, 3 * GRAIN), st.integers(1, 3 * GRAIN)), max_size=8))
def test_any_pieces_read_as_what_the_newest_layer_holds_one_behind_the_other(
    chain_and_raw, gaps_and_lengths
):
    chain, raw = chain_and_raw
    pieces, at = [], 0
    for gap, length in gaps_and_lengths:
        pieces.append((at + gap, length))
        at += gap + length
    pieces = [(start, length) for start, length in pieces if start + length <= SIZE]
    data = bytearray(b"x" * sum(length for _, length in pieces))
    chain.read(np.array(pieces, np.int64).reshape(-1, 2), memoryview(data))
    assert data == b"".join(raw[start : start + length] for start, length in pieces)


def test_scattered_blocks_that_lie_side_by_side_in_a_file_are_read_as_one_part(tmp_path):
    shelf = Shelf(tmp_path, 64 * GRAIN)
    shelf.add("a.vmdk", (0, noise(GRAIN, 1)))
    blocks = [40, 3, 4, 21, 60]
    top = shelf.add("b.vmdk", *((block * GRAIN, noise(GRAIN, block)) for block in blocks))
    calls: list[int] = []

    class Recorder:
        def read_hosts(self, parts: list[tuple[int, int, int]], view: memoryview) -> None:
            calls.extend((end - first) // GRAIN for _, first, end in parts)

    with Chain.open(top) as chain:
        files = [Recorder(), Recorder()]
        wanted = np.array([(block * GRAIN, GRAIN) for block in sorted(blocks)], np.int64)
        read_pieces(chain.map, files, wanted, memoryview(bytearray(5 * GRAIN)))
        assert calls == [3, 1, 1]  # 3, 4 and 21 as they came; 40, before them; 60, behind them
        with pytest.raises(ValueError, match="beyond"):
            chain.read(np.array([[64 * GRAIN - 1, 2]]), memoryview(bytearray(2)))


@pytest.fixture(scope="module")
def chain_and_raw(tmp_path_factory):
    shelf = Shelf(tmp_path_factory.mktemp("chain"), SIZE)
    shelf.add("a.vmdk", (0, noise(5 * GRAIN, 1)))
    shelf.add("b.vmdk", (GRAIN, noise(2 * GRAIN, 2)))
    top = shelf.add("c.vmdk", (2 * GRAIN, GRAIN), (8 * GRAIN, noise(512, 3)))
    with Chain.open(top) as chain:
        yield chain, bytes(shelf.raw)


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 1), (SIZE - 1, 2), (-1, 1)])
def test_reading_beyond_the_disk_is_an_error_and_not_zeros(shelf, offset, length):
    with Chain.open(shelf.folder / "c.vmdk") as chain, pytest.raises(ValueError, match="beyond"):
        chain.readinto(offset, memoryview(bytearray(length)))


def test_a_chain_is_read_by_several_threads_at_once(shelf):
    wanted, wrong = bytes(shelf.raw), []
    with Chain.open(shelf.folder / "c.vmdk") as chain:

        def read_all(step: int) -> None:
            for offset in range(0, SIZE - step, step):
                data = bytearray(step)
                chain.readinto(offset, memoryview(data))
                if data != wanted[offset : offset + step]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read_all, args=(n,)) for n in (700, 4096, 70_000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_layers_are_listed_base_first(shelf):
    with Chain.open(shelf.folder / "c.vmdk") as chain:
        assert [layer.path.name for layer in chain.layers] == ["a.vmdk", "b.vmdk", "c.vmdk"]
        assert (chain.size, chain.sector_size) == (SIZE, 512)


def test_a_chain_that_is_reached_by_a_relative_path_or_through_a_linked_folder(
    shelf, tmp_path_factory, monkeypatch
):
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(shelf.folder)
    assert contents(link / "c.vmdk") == shelf.raw
    monkeypatch.chdir(shelf.folder)
    assert contents(Path("c.vmdk")) == shelf.raw


def test_a_hundred_layers_are_one_disk(tmp_path):
    shelf = Shelf(tmp_path, 128 * GRAIN)
    shelf.add("0.vmdk", (0, noise(shelf.size, 0)))
    for number in range(1, 100):
        shelf.add(f"{number}.vmdk", (number * GRAIN, noise(3 * GRAIN, number)))
    assert contents(tmp_path / "99.vmdk") == shelf.raw
    qemu.assert_holds(tmp_path / "99.vmdk", shelf.raw_file())


@pytest.mark.parametrize(("child_size", "parent_size"), [(6, 4), (4, 6)])
def test_a_child_of_another_size_is_cut_or_continued_by_zeros(tmp_path, child_size, parent_size):
    parent = Shelf(tmp_path, parent_size * GRAIN)
    base = parent.add("a.vmdk", (0, noise(parent.size, 1)))
    child = VmdkDisk.create(tmp_path / "b.vmdk", child_size * GRAIN, reference(base))
    child.flush()
    child.close()
    wanted = (bytes(parent.raw) + bytes(child_size * GRAIN))[: child_size * GRAIN]
    assert contents(tmp_path / "b.vmdk") == wanted


def test_a_missing_parent_is_named(shelf):
    (shelf.folder / "a.vmdk").unlink()
    error = refused(shelf.folder / "c.vmdk")
    assert isinstance(error, ParentError)
    assert "a.vmdk" in error.title
    assert "b.vmdk" in error.title


def test_a_parent_with_the_right_cid_and_another_uuid_is_refused(shelf):
    disk = VmdkDisk.open(shelf.folder / "a.vmdk", writable=True)
    disk.adopt("12345678-0000-4000-8000-000000000000", disk.info.content_id)
    disk.close()
    assert "no longer the disk" in refused(shelf.folder / "b.vmdk").title


def test_parents_that_form_a_circle_are_refused(shelf, monkeypatch):
    relink(shelf.folder / "a.vmdk", reference(shelf.folder / "c.vmdk"))
    assert "circle" in refused(shelf.folder / "c.vmdk").title
    monkeypatch.chdir(shelf.folder)
    assert "circle" in refused(Path("c.vmdk")).title


def test_a_parent_outside_the_folder_is_never_opened(shelf, tmp_path_factory):
    """A disk image must not be able to make us read any file it names."""
    outside = tmp_path_factory.mktemp("outside") / "a.vmdk"
    (shelf.folder / "a.vmdk").rename(outside)
    child = shelf.folder / "b.vmdk"
    for hint in (str(outside), os.path.relpath(outside, shelf.folder), f"x/../{outside}"):
        hinting(child, hint)
        error = refused(child)
        assert isinstance(error, ParentError)
        assert "outside its own folder" in error.title


def test_a_parent_that_is_a_link_beside_its_child_is_followed(shelf):
    (shelf.folder / "a.vmdk").rename(shelf.folder / "real.vmdk")
    (shelf.folder / "a.vmdk").symlink_to("between.vmdk")
    (shelf.folder / "between.vmdk").symlink_to(shelf.folder / "real.vmdk")
    assert contents(shelf.folder / "c.vmdk") == shelf.raw
    with Chain.open(shelf.folder / "c.vmdk") as chain:
        assert chain.layers[0].path == shelf.folder / "real.vmdk"


def test_a_parent_that_is_a_link_is_followed_into_a_folder_that_the_user_named(
    shelf, tmp_path_factory
):
    outside = tmp_path_factory.mktemp("outside") / "base.vmdk"
    (shelf.folder / "a.vmdk").rename(outside)
    (shelf.folder / "a.vmdk").symlink_to(outside)
    with Chain.open(shelf.folder / "c.vmdk", parents_in=[outside.parent]) as chain:
        assert chain.layers[0].path == outside


def test_a_link_as_parent_that_leads_elsewhere_is_not_followed_and_named_as_that(
    shelf, tmp_path_factory
):
    outside = tmp_path_factory.mktemp("outside") / "a.vmdk"
    (shelf.folder / "a.vmdk").rename(outside)
    link = shelf.folder / "a.vmdk"
    for target, said in (
        (outside, "outside its own folder"),
        (outside.parent / "gone.vmdk", "there is nothing"),
        (outside.parent, "no file"),
        (link, "there is nothing"),
    ):
        link.symlink_to(target)
        error = refused(shelf.folder / "b.vmdk")
        assert isinstance(error, ParentError)
        assert f"a.vmdk, which is a link to {target}" in error.title
        assert said in error.title
        assert error.advice
        link.unlink()


def test_a_disk_that_is_named_by_a_link_has_its_parents_beside_the_link_or_where_it_lies(
    shelf, tmp_path_factory
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "current.vmdk").symlink_to(shelf.folder / "c.vmdk")
    assert contents(elsewhere / "current.vmdk") == shelf.raw
    moved = tmp_path_factory.mktemp("moved")
    for name in ("a.vmdk", "b.vmdk"):
        (shelf.folder / name).rename(moved / name)
        (elsewhere / name).symlink_to(moved / name)
    with pytest.raises(ParentError):
        contents(elsewhere / "current.vmdk")
    for name in ("a.vmdk", "b.vmdk"):
        (elsewhere / name).unlink()
        (moved / name).rename(elsewhere / name)
    assert contents(elsewhere / "current.vmdk") == shelf.raw


def test_a_link_that_leads_back_to_the_child_is_a_circle(shelf):
    (shelf.folder / "a.vmdk").unlink()
    (shelf.folder / "a.vmdk").symlink_to("c.vmdk")
    assert "circle" in refused(shelf.folder / "c.vmdk").title


@pytest.mark.parametrize(
    "hint", ["", ".", "..", "/", "//", "a/b", "~", "x" * 300, "y" * 5000, "\x7f"]
)
def test_a_name_that_is_no_file_is_a_missing_parent(shelf, hint):
    hinting(shelf.folder / "b.vmdk", hint)
    assert isinstance(refused(shelf.folder / "b.vmdk"), ParentError)


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_a_parent_that_is_no_file_is_not_opened(shelf, kind):
    parent = shelf.folder / "a.vmdk"
    parent.unlink()
    if kind == "folder":
        parent.mkdir()
    else:
        os.mkfifo(parent)
    assert isinstance(refused(shelf.folder / "b.vmdk"), ParentError)


def test_a_raw_disk_is_never_taken_for_a_vmdk_if_it_is_said_to_be_raw(tmp_path):
    """Its guest could write a header that names any file of the host as parent."""
    shelf = Shelf(tmp_path, MIB)
    path = shelf.add("a.vmdk", (0, noise(MIB, 1)))
    assert contents(path, "raw") == path.read_bytes()


def test_a_chain_that_cannot_be_opened_leaves_no_file_open(shelf):
    before = len(os.listdir("/proc/self/fd"))
    (shelf.folder / "a.vmdk").write_bytes(b"KDMV")
    refused(shelf.folder / "c.vmdk")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_parent_without_a_format_is_not_taken_for_raw(tmp_path):
    """Disks of old QEMUs: what a guest wrote into a raw parent must not choose what is opened."""
    (tmp_path / "base.raw").write_bytes(noise(MIB, 1))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "c.qcow2"]
    subprocess.run(create, cwd=tmp_path, check=True)
    data = bytearray((tmp_path / "c.qcow2").read_bytes())
    at = data.index(bytes.fromhex("e2792aca"))  # the extension that names the format
    data[at : at + 4] = b"none"
    (tmp_path / "c.qcow2").write_bytes(data)
    with pytest.raises(ParentError, match="does not say in which format") as refusal:
        Chain.open(tmp_path / "c.qcow2")
    assert "-F raw" in refusal.value.advice


@pytest.mark.parametrize(("name", "refused"), [("base.raw", True), ("base.qcow2", False)])
def test_a_raw_parent_in_which_a_guest_wrote_a_header_opens_no_other_file(tmp_path, name, refused):
    """Where the child does not say that it is raw; what is called QCOW2 was no guest's raw disk."""
    (tmp_path / "secret").write_bytes(b"secret".ljust(MIB, b"\0"))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b"]
    subprocess.run([*create, "secret", name], cwd=tmp_path, check=True)
    subprocess.run([*create, name, "c.qcow2"], cwd=tmp_path, check=True)
    data = bytearray((tmp_path / "c.qcow2").read_bytes())
    at = data.index(bytes.fromhex("e2792aca"))
    data[at : at + 4] = b"none"
    (tmp_path / "c.qcow2").write_bytes(data)
    if not refused:
        with Chain.open(tmp_path / "c.qcow2") as chain:
            assert [layer.path.name for layer in chain.layers] == ["secret", name, "c.qcow2"]
        return
    with pytest.raises(ParentError, match="does not say in which format") as refusal:
        Chain.open(tmp_path / "c.qcow2")
    assert "-F qcow2 -b base.raw ..., or raw" in refusal.value.advice


def test_a_moved_chain_of_another_system_is_found_by_the_last_part_of_a_name(tmp_path):
    shelf = Shelf(tmp_path, SIZE, "vhd")
    shelf.add("a.vhd", (0, noise(SIZE, 1)))
    child = shelf.add("b.vhd", (GRAIN, noise(GRAIN, 2)))
    (tmp_path / "moved").mkdir()
    (tmp_path / "a.vhd").rename(tmp_path / "moved" / "a.vhd")
    with pytest.raises(ParentError, match=r"needs its parent a\.vhd, which is missing"):
        Chain.open(child)
    with Chain.open(child, parents_in=[tmp_path / "moved"]) as chain:
        assert chain.layers[0].path == tmp_path / "moved" / "a.vhd"
