"""Extraction from a volume whose author means harm, or into a folder that is in the way."""

from __future__ import annotations

import errno
import operator
import os
import resource
import signal
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.volumes import volumes
from tests.volumes.volumes import MIB, browsing, overwritten
from vdbackup.errors import Cancelled, RecoveryError
from vdbackup.jobs import CancelToken, Job, JobState, Progress, Task, silent
from vdbackup.recovery.tree_walk import DEEPEST, is_name


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a test puts into a volume."""
    tree = tmp_path / "tree"
    tree.mkdir()
    return tree


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that must stay as it is, whatever is extracted beside it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    yield outside
    assert volumes.contents(outside) == {"precious": b"precious"}


def ext4(tree: Path) -> Path:
    image = tree.parent / "ext4.img"
    volumes.ext("ext4", size=16 * MIB)(tree, image)
    return image


def extract(image: Path, destination: Path, *paths: str) -> tuple[str, ...]:
    with browsing(image) as browser:
        return browser.extract(paths or ("/",), destination, Task())


def patch(image: Path, old: bytes, new: bytes) -> None:
    """Overwrite bytes that occur once in an image."""
    data = image.read_bytes()
    assert len(old) == len(new)
    assert data.count(old) == 1
    with image.open("r+b") as file:
        file.seek(data.index(old))
        file.write(new)


def entry(name: str, kind: int) -> bytes:
    """The end of a folder's entry in ext4, from the length of the name on."""
    return struct.pack("<BB", len(name), kind) + name.encode()


FILE, FOLDER, LINK = 1, 2, 7


# --------------------------------------------------------------------------------------- names


@given(st.text(max_size=300) | st.text(alphabet="./\0a\udc2f\udcff\ud800", max_size=4))
def test_a_name_that_passes_is_one_name_in_one_folder(name: str):
    if is_name(name):
        encoded = os.fsencode(name)
        assert os.path.split(b"/folder/" + encoded) == (b"/folder", encoded)
        assert os.path.normpath(b"/folder/" + encoded) == b"/folder/" + encoded
        assert len(encoded) <= 255
        assert b"\0" not in encoded


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0", "\ud800", "x" * 256, "ü" * 128])
def test_names_that_lead_elsewhere_are_refused(name: str):
    assert not is_name(name)


@pytest.mark.parametrize("name", ["...", " ", "-rf", "a\nb", "ü" * 127, "caf\udce9", "\\", "C:"])
def test_odd_names_are_names(name: str):
    assert is_name(name)


@pytest.mark.parametrize("evil", ["..", "./", "/a", "a\0"])
def test_a_stored_name_that_leads_outside_is_left_out(
    evil: str, tree: Path, tmp_path: Path, outside: Path
):
    (tree / "folder").mkdir()
    (tree / "folder" / "~~").write_bytes(b"evil")
    (tree / "folder" / "good").write_bytes(b"good")
    image = ext4(tree)
    patch(image, entry("~~", FILE), entry(evil, FILE))
    (warning,) = extract(image, outside.parent / "out", "/folder")
    assert "is not a name that a file can have" in warning
    assert volumes.contents(tmp_path / "out") == {"folder": None, "folder/good": b"good"}


def test_a_folder_named_like_its_parent_is_left_out(tree: Path, tmp_path: Path, outside: Path):
    (tree / "folder" / "~~").mkdir(parents=True)
    (tree / "folder" / "~~" / "~~~~~~~").write_bytes(b"evil")
    image = ext4(tree)
    patch(image, entry("~~", FOLDER), entry("..", FOLDER))
    patch(image, entry("~~~~~~~", FILE), entry("outside", FILE))
    (warning,) = extract(image, tmp_path / "out")
    assert "'..' is not a name" in warning
    assert volumes.contents(tmp_path / "out") == {"folder": None}


def test_a_name_does_not_steer_the_terminal_that_shows_a_warning(tree: Path, tmp_path: Path):
    os.mkfifo(tree / "\x1b[2J\udcff")
    (tree / "file").touch()
    (warning,) = extract(ext4(tree), tmp_path / "out")
    assert warning == "/\\x1b[2J\\udcff is left out: it is a device, a pipe or a socket."


# --------------------------------------------------------------------------------------- links


def test_a_link_and_a_folder_of_one_name_do_not_lead_outside(
    tree: Path, tmp_path: Path, outside: Path
):
    (tree / "aa").symlink_to(outside)
    (tree / "ab").mkdir()
    (tree / "ab" / "precious").write_bytes(b"evil")
    image = ext4(tree)
    patch(image, entry("ab", FOLDER), entry("aa", FOLDER))
    (warning,) = extract(image, tmp_path / "out")
    assert "/aa is left out" in warning
    assert volumes.contents(tmp_path / "out") == {"aa": None, "aa/precious": b"evil"}


def test_links_that_lead_outside_are_made_and_not_followed(
    tree: Path, tmp_path: Path, outside: Path
):
    (tree / "way-out").symlink_to(outside)
    (tree / "way-up").symlink_to("../outside/precious")
    image = ext4(tree)
    assert extract(image, tmp_path / "out") == ()
    assert (tmp_path / "out" / "way-out").readlink() == outside
    (tmp_path / "out" / "way-up").unlink()
    (tree / "way-out").unlink()
    (tree / "way-out").mkdir()
    (tree / "way-out" / "precious").write_bytes(b"evil")
    image.unlink()
    with pytest.raises(RecoveryError, match="exists already"):
        extract(ext4(tree), tmp_path / "out", "/way-out")


def test_a_file_of_the_same_name_twice_is_extracted_once(tree: Path, tmp_path: Path):
    (tree / "aa").write_bytes(b"one of two")
    (tree / "ab").write_bytes(b"one of two")
    image = ext4(tree)
    patch(image, entry("ab", FILE), entry("aa", FILE))
    (warning,) = extract(image, tmp_path / "out")
    assert "/aa is left out: the folder holds something of this name already" in warning
    assert volumes.contents(tmp_path / "out") == {"aa": b"one of two"}


# ------------------------------------------------------------------------------------- circles


def test_a_folder_that_holds_itself_comes_to_an_end(tree: Path, tmp_path: Path):
    (tree / "outer" / "inner").mkdir(parents=True)
    (tree / "outer" / "file").write_bytes(b"f")
    image = ext4(tree)
    data = image.read_bytes()
    outer, inner = (
        struct.unpack_from("<IH", data, data.index(entry(name, FOLDER)) - 6)
        for name in ("outer", "inner")
    )
    patch(
        image,
        struct.pack("<IH", *inner) + entry("inner", FOLDER),
        struct.pack("<IH", outer[0], inner[1]) + entry("inner", FOLDER),
    )
    (warning,) = extract(image, tmp_path / "out")
    assert "/outer/inner is left out" in warning
    assert volumes.contents(tmp_path / "out") == {"outer": None, "outer/file": b"f"}


def test_folders_end_at_a_depth(tree: Path, tmp_path: Path):
    folder = tree
    for _ in range(DEEPEST + 5):
        folder /= "d"
        folder.mkdir()
    (warning,) = extract(ext4(tree), tmp_path / "out")
    assert "lies too deep in folders" in warning
    assert len(volumes.contents(tmp_path / "out")) == DEEPEST - 1


# --------------------------------------------------------------------------------- destination


def test_an_extraction_that_would_overwrite_something_writes_nothing(tree: Path, tmp_path: Path):
    for name in ("first", "second"):
        (tree / name).write_bytes(b"new")
    out = tmp_path / "out"
    out.mkdir()
    (out / "second").write_bytes(b"old")
    image = ext4(tree)
    with pytest.raises(RecoveryError, match="second exists already"):
        extract(image, out, "/first", "/second")
    with pytest.raises(RecoveryError, match="is not empty"):
        extract(image, out, "/")
    with pytest.raises(RecoveryError, match="is not a folder"):
        extract(image, out / "second", "/first")
    assert volumes.contents(out) == {"second": b"old"}


def test_a_link_in_the_destination_is_in_the_way(tree: Path, tmp_path: Path, outside: Path):
    (tree / "name").write_bytes(b"evil")
    out = tmp_path / "out"
    out.mkdir()
    (out / "name").symlink_to(outside / "not there yet")
    with pytest.raises(RecoveryError, match="exists already"):
        extract(ext4(tree), out, "/name")


def test_two_of_one_name_are_not_extracted_into_one_folder(tree: Path, tmp_path: Path):
    for folder in ("a", "b"):
        (tree / folder).mkdir()
        (tree / folder / "same").write_bytes(folder.encode())
    with pytest.raises(RecoveryError, match="Two of the chosen files are called same"):
        extract(ext4(tree), tmp_path / "out", "/a/same", "/b/same")
    assert not (tmp_path / "out").exists()


def test_cancelling_removes_the_file_that_was_being_written(tree: Path, tmp_path: Path):
    (tree / "first").write_bytes(b"whole")
    (tree / "large").write_bytes(os.urandom(5 * MIB))
    cancel = CancelToken()

    def cancel_midway(progress: Progress) -> None:
        if progress.done > 2 * MIB:
            cancel.cancel()

    out = tmp_path / "out"
    with browsing(ext4(tree)) as browser, pytest.raises(Cancelled) as caught:
        browser.extract(["/first", "/large"], out, Task(cancel_midway, cancel))
    assert str(out) in caught.value.advice
    assert volumes.contents(out) == {"first": b"whole"}


def test_a_full_destination_ends_the_job_with_a_sentence(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tree / "large").write_bytes(os.urandom(3 * MIB))
    out = tmp_path / "out"
    original = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if offset >= 2 * MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with browsing(ext4(tree)) as browser:
        job = Job("Extract", lambda task: browser.extract(["/"], out, task))
        job.run(silent)
    assert job.state == JobState.FAILED
    assert job.error is not None
    assert "full" in job.error.title
    assert volumes.contents(out) == {}


@pytest.fixture
def small_files_only() -> Iterator[int]:
    """No file may become larger than this number of bytes while the test lasts."""
    limit, before = 64 << 10, resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_file_that_is_too_large_for_the_destination_is_left_out(
    tree: Path, tmp_path: Path, small_files_only: int
):
    (tree / "large").write_bytes(b"l" * (2 * small_files_only))
    (tree / "small").write_bytes(b"s")
    image = ext4(tree)
    resource.setrlimit(resource.RLIMIT_FSIZE, (small_files_only, resource.RLIM_INFINITY))
    (warning,) = extract(image, tmp_path / "out")
    assert "/large is left out: the destination cannot hold it" in warning
    assert volumes.contents(tmp_path / "out") == {"small": b"s"}


# ------------------------------------------------------------------- what lies in unused blocks


def test_a_hole_at_the_end_of_an_ext3_file_reads_as_zeros(tree: Path, tmp_path: Path):
    with (tree / "hole").open("wb") as file:
        file.write(b"x" * 3000)
        file.truncate(20_000)
    image = tmp_path / "ext3.img"
    volumes.ext("ext3", size=16 * MIB)(tree, image)
    extract(image, tmp_path / "out")
    assert (tmp_path / "out" / "hole").read_bytes() == b"x" * 3000 + bytes(17_000)


def test_blocks_that_were_only_reserved_read_as_zeros_in_xfs(tree: Path, tmp_path: Path):
    (tree / "reserved").write_bytes(b"stale" * 10_001)
    image = tmp_path / "xfs.img"
    volumes.xfs(tree, image)
    data = image.read_bytes()
    inode = data.index(struct.pack(">Q", 50_005)) - 56
    assert data[inode : inode + 2] == b"IN"
    with image.open("r+b") as file:
        file.seek(inode + 0xB0)  # the first extent; its topmost bit says that it was not written
        file.write(bytes([data[inode + 0xB0] | 0x80]))
    extract(image, tmp_path / "out")
    assert (tmp_path / "out" / "reserved").read_bytes() == bytes(50_005)


def test_what_was_not_written_in_an_ntfs_file_reads_as_zeros(tree: Path, tmp_path: Path):
    (tree / "longer").write_bytes(b"stale" * 10_001)
    image = tmp_path / "ntfs.img"
    volumes.ntfs()(tree, image)
    sizes = struct.pack("<QQ", 50_005, 50_005)  # of the data, and of what was written of them
    patch(image, sizes, struct.pack("<QQ", 50_005, 7_000))
    extract(image, tmp_path / "out")
    found = (tmp_path / "out" / "longer").read_bytes()
    assert found == (b"stale" * 10_001)[:7_000] + bytes(43_005)


# ------------------------------------------------------------------------ chains of FAT clusters


def fat16(tree: Path) -> Path:
    """A FAT16 with clusters of 2 KiB; the first file or folder has cluster 2."""
    image = tree.parent / "fat16.img"
    volumes.fat(16, 16 * MIB, "-s", "4", "-r", "512")(tree, image)
    return image


def link(image: Path, chain: dict[int, int]) -> None:
    """Change the table of a FAT16: what follows on each cluster."""
    with image.open("r+b") as file:
        file.seek(14)
        (reserved,) = struct.unpack("<H", file.read(2))
        for cluster, following in chain.items():
            file.seek(reserved * 512 + 2 * cluster)
            file.write(struct.pack("<H", following))


def first_cluster(image: Path, name: bytes, cluster: int) -> None:
    """Change where a file begins."""
    offset = image.read_bytes().index(name) + 26
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(struct.pack("<H", cluster))


def test_a_chain_that_goes_backwards_is_read_backwards(tree: Path, tmp_path: Path):
    (tree / "BACK.BIN").write_bytes(b"1" * 2048 + b"2" * 2048)
    image = fat16(tree)
    first_cluster(image, b"BACK    BIN", 3)
    link(image, {3: 2, 2: 0xFFFF})
    extract(image, tmp_path / "out")
    assert (tmp_path / "out" / "BACK.BIN").read_bytes() == b"2" * 2048 + b"1" * 2048


@pytest.mark.parametrize(
    "chain", [{2: 2}, {2: 1}, {2: 0}, {2: 0xFFF7}, {2: 0xFF00}], ids=lambda chain: f"{chain[2]:x}"
)
def test_a_folder_with_a_damaged_chain_is_refused(
    chain: dict[int, int], tree: Path, tmp_path: Path
):
    (tree / "FOLDER").mkdir()
    (tree / "FOLDER" / "FILE").write_bytes(b"f")
    image = fat16(tree)
    link(image, chain)
    with browsing(image) as browser:
        assert [found.name for found in browser.listing()] == ["FOLDER"]
        with pytest.raises(RecoveryError, match="/FOLDER cannot be read"):
            browser.listing("/FOLDER")


def test_a_file_whose_chain_is_too_short_is_left_out(tree: Path, tmp_path: Path):
    (tree / "SHORT.BIN").write_bytes(b"1" * 5000)
    (tree / "WHOLE.BIN").write_bytes(b"2" * 5000)
    image = fat16(tree)
    link(image, {2: 0xFFFF})
    (warning,) = extract(image, tmp_path / "out")
    assert warning == "/SHORT.BIN cannot be read: its end is missing."
    assert volumes.contents(tmp_path / "out") == {"WHOLE.BIN": b"2" * 5000}
    with pytest.raises(RecoveryError, match="its end is missing"):
        extract(image, tmp_path / "again", "/SHORT.BIN")


# -------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("system", volumes.MAKERS)
@settings(max_examples=max(1, settings.default.max_examples // 4))
@given(data=st.data())
def test_no_damage_leads_to_more_than_a_sentence(
    system: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    image, blocks = _small(system, tmp_path_factory)
    offsets = st.builds(operator.add, st.sampled_from(blocks), st.integers(0, 511))
    change = st.tuples(offsets, st.binary(min_size=1, max_size=8))
    folder = tmp_path_factory.mktemp("damaged")
    with overwritten(image, data.draw(st.lists(change, min_size=1, max_size=8))):  # noqa: SIM117
        with suppress(RecoveryError), browsing(image) as browser:
            browser.volumes()
            browser.extract(["/"], folder / "out", Task())
    assert {path.name for path in folder.iterdir()} <= {"out"}


_made: dict[str, tuple[Path, list[int]]] = {}


def _small(system: str, factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A volume with a few files, made once, and the sectors that describe them."""
    if system not in _made:
        folder = factory.mktemp(system)
        tree = folder / "tree"
        for number in range(40):
            file = tree / f"folder-{number % 4}" / "deeper" / f"file-{number}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"a" * number * 100)
        image = folder / "image"
        volumes.MAKERS[system](tree, image)
        data = image.read_bytes()
        used = [at for at in range(0, len(data), 512) if data[at : at + 512].strip(b"\0a\xff")]
        _made[system] = image, used
    return _made[system]
