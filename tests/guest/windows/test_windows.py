"""What is read of a Windows: which it is, from which disks it starts, and what is in the way."""

from __future__ import annotations

import contextlib
import io
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regipy.registry import RegistryHive

from tests.guests import windows as made
from tests.volumes import volumes
from vdbackup.disks.chain import Chain
from vdbackup.errors import RecoveryError
from vdbackup.guest.choice import choose
from vdbackup.guest.disk import Disk
from vdbackup.guest.hardware import Controller
from vdbackup.guest.inspect import inspect
from vdbackup.guest.model import Firmware, System
from vdbackup.guest.tree import Tree
from vdbackup.guest.windows import inspect as windows
from vdbackup.guest.windows.hive import Hive, Key
from vdbackup.guest.windows.inspect import Windows, inspect_windows
from vdbackup.recovery.retarget.windows.edits import plan_windows
from vdbackup.volumes.filesystems.node import reading
from vdbackup.volumes.filesystems.ntfs import NtfsNode

SYSTEM = "Windows/System32/config/SYSTEM"
Change = Callable[[Path], None]


@contextmanager
def tree_of(image: Path, name: str = "") -> Iterator[Tree]:
    """The files of a volume of a raw image."""
    with Chain.open(image, "raw") as chain:
        yield Disk(chain).trees[name]


def inspected(image: Path, name: str = "") -> Windows | None:
    with tree_of(image, name) as tree:
        return inspect_windows(tree)


def found(folder: Path, release: made.Release = made.TEN, change: Change | None = None) -> Windows:
    """What is read of that release, after a change to its files."""
    tree = made.files(folder / "files", release)
    if change is not None:
        change(tree)
    windows = inspected(made.volume(tree, folder / "volume.img"))
    assert windows is not None
    return windows


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with a Windows 10, for a BIOS."""
    folder = tmp_path_factory.mktemp("windows")
    tree = made.with_bios(made.files(folder / "files"))
    return made.mbr_disk(made.volume(tree, folder / "volume.img"), folder / "disk.img")


# ------------------------------------------------------------------------------------ which it is


@pytest.mark.parametrize(
    ("release", "name", "version"),
    [
        (made.TEN, "Windows 10 Pro", "10.0.19045"),
        (made.ELEVEN, "Windows 11 Home", "10.0.22631"),
        (made.SEVEN, "Windows 7 Professional", "6.1.7601"),
        (made.SERVER, "Windows Server 2019 Standard", "10.0.17763"),
    ],
)
def test_name_and_version_are_read(tmp_path: Path, release: made.Release, name: str, version: str):
    windows = found(tmp_path, release)
    assert (windows.name, windows.version) == (name, version)
    assert (windows.system_root, windows.control_set) == ("Windows", "ControlSet002")


@pytest.mark.parametrize(
    ("word", "architecture"), [("AMD64", "x86_64"), ("x86", "i386"), ("ARM64", "aarch64")]
)
def test_its_architecture_is_read(tmp_path: Path, word: str, architecture: str):
    release = replace(made.TEN, architecture=word)
    assert found(tmp_path, release).architecture == architecture


def test_a_volume_without_presenthas_none(tmp_path: Path):
    (tmp_path / "files/Windows/System32").mkdir(parents=True)
    assert inspected(made.volume(tmp_path / "files", tmp_path / "volume.img")) is None


def test_a_presentwhose_software_hive_is_gone_still_has_its_drivers(tmp_path: Path):
    windows = found(
        tmp_path, change=lambda tree: (tree / "Windows/System32/config/SOFTWARE").unlink()
    )
    assert (windows.name, windows.version) == ("Windows", "")
    assert "stornvme" in windows.services


def test_a_disk_for_a_bios_is_inspected(disk: Path):
    with Chain.open(disk, "raw") as chain:
        guest = inspect(chain)
    assert (guest.system, guest.name, guest.version) == (
        System.WINDOWS,
        "Windows 10 Pro",
        "10.0.19045",
    )
    assert guest.root is not None
    assert guest.root.volume == "p1"
    assert choose(guest).controller is Controller.NVME


def test_a_disk_for_uefi_is_inspected(tmp_path: Path):
    volume = made.volume(made.files(tmp_path / "files", made.ELEVEN), tmp_path / "volume.img")
    with Chain.open(made.gpt_disk(volume, tmp_path / "disk.img"), "raw") as chain:
        guest = inspect(chain)
    assert guest.name == "Windows 11 Home"
    assert (guest.firmware, guest.problems) == ((Firmware.UEFI,), ())
    assert guest.root is not None
    assert guest.efi is not None
    assert (guest.root.volume, guest.efi.volume) == ("p2", "p1")
    assert choose(guest).boots


def test_a_volume_that_is_encrypted_with_bitlocker_is_refused(tmp_path: Path):
    volume = made.volume(made.files(tmp_path / "files"), tmp_path / "volume.img")
    patch(volume, 3, b"-FVE-FS-")
    with Chain.open(made.gpt_disk(volume, tmp_path / "disk.img"), "raw") as chain:
        guest = inspect(chain)
    assert guest.system is System.WINDOWS
    (problem,) = guest.problems
    assert problem.blocks
    assert "BitLocker" in problem.sentence


# ------------------------------------------------------------------------- where it starts from


def test_boot_start_drivers_are_told_from_those_that_are_switched_off(disk: Path):
    windows = inspected(disk, "p1")
    assert windows is not None
    assert windows.services == ("atapi", "stornvme")
    assert windows.inactive_services == ("intelide", "lsi_sas", "pciide", "storahci")


def test_a_driver_whose_file_is_gone_does_not_count(tmp_path: Path):
    def remove(tree: Path) -> None:
        (tree / "Windows/System32/drivers/stornvme.sys").unlink()

    windows = found(tmp_path, change=remove)
    assert "stornvme" not in (*windows.services, *windows.inactive_services)


def test_a_driver_is_found_whatever_the_case_of_its_names(tmp_path: Path):
    def rename(tree: Path) -> None:
        (tree / "Windows/System32").rename(tree / "Windows/SYSTEM32")
        drivers = tree / "Windows/SYSTEM32/drivers"
        (drivers / "stornvme.sys").rename(drivers / "StorNVMe.SYS")

    assert "stornvme" in found(tmp_path, change=rename).services


@pytest.mark.parametrize(
    ("image", "path"),
    [
        ("\\SystemRoot\\System32\\drivers\\a.sys", "Windows/System32/drivers/a.sys"),
        ("System32\\drivers\\a.sys", "Windows/System32/drivers/a.sys"),
        ("\\??\\C:\\Windows\\System32\\drivers\\a.sys", "Windows/System32/drivers/a.sys"),
        ("", "Windows/System32/drivers/service.sys"),
    ],
)
def test_every_way_to_name_a_drivers_file_is_understood(image: str, path: str):
    assert windows._image_path(image, "service", "Windows") == path


# ----------------------------------------------------------------------------- what is in the way


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with a Windows that was never hibernated."""
    folder = tmp_path_factory.mktemp("sleeper")
    return made.volume(made.files(folder / "files"), folder / "volume.img")


def with_hiberfil(volume: Path, folder: Path, content: bytes) -> Windows:
    """Windows on a copy of the volume that has a hiberfil.sys; wimlib leaves that out."""
    image, file = folder / "volume.img", folder / "hiberfil.sys"
    shutil.copy(volume, image)
    file.write_bytes(content)
    volumes.run("ntfscp", "--quiet", image, file, "hiberfil.sys")
    found = inspected(image)
    assert found is not None
    return found


@pytest.mark.parametrize("magic", [b"HIBR", b"hibr", b"RSTR"])
def test_a_hibernated_presentis_refused(sleeper: Path, tmp_path: Path, magic: bytes):
    found = with_hiberfil(sleeper, tmp_path, magic.ljust(9000, b"\1"))
    assert found.problems == (windows.HIBERNATED,)
    assert windows.HIBERNATED.blocks


@pytest.mark.parametrize("content", [b"WAKE".ljust(9000, b"\1"), bytes(9000), b"", b"hib"])
def test_a_file_for_hibernation_that_holds_none_is_none(
    sleeper: Path, tmp_path: Path, content: bytes
):
    assert with_hiberfil(sleeper, tmp_path, content).problems == ()


def test_a_hive_whose_logs_are_not_replayed_is_refused(tmp_path: Path):
    present = found(tmp_path, change=lambda tree: unfinished(tree / SYSTEM))
    assert present.problems == (windows.DIRTY_REGISTRY,)


def test_a_hive_with_a_wrong_checksum_is_refused(tmp_path: Path):
    def damage(tree: Path) -> None:
        patch(tree / SYSTEM, 508, b"\1\2\3\4")

    assert found(tmp_path, change=damage).problems == (windows.DIRTY_REGISTRY,)


def unfinished(hive: Path) -> None:
    """As Windows leaves a hive that it has begun to write."""
    with hive.open("r+b") as file:
        base = bytearray(file.read(4096))
        base[4:8] = struct.pack("<I", int.from_bytes(base[8:12], "little") + 1)
        file.seek(0)
        file.write(made.sealed(bytes(base)))


def patch(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(data)


def test_a_volume_that_is_marked_dirty_is_refused(tmp_path: Path):
    image = made.volume(made.files(tmp_path / "files"), tmp_path / "volume.img")
    volumes.run("ntfsfix", image)  # leaves the mark, so that Windows checks the volume
    present = inspected(image)
    assert present is not None
    assert present.problems == (windows.UNCLEAN,)
    volumes.run("ntfsfix", "--clear-dirty", image)
    present = inspected(image)
    assert present is not None
    assert present.problems == ()


@pytest.mark.parametrize(
    ("client", "flags", "unclean"),
    [(0xFFFF, 0, False), (0, 0x0002, False), (0, 0, True), (0, 0x0001, True)],
)
def test_a_log_that_presenthas_not_closed_is_noticed(
    tmp_path: Path, client: int, flags: int, unclean: bool
):
    image = made.volume(made.files(tmp_path / "files"), tmp_path / "volume.img")
    with tree_of(image) as tree:
        root = tree.find("/")
        assert isinstance(root, NtfsNode)
        (first, _), *_ = root._fs.mft.get(2).open().runlist
        log = first * root._fs.cluster_size
    older, newer = restart_page(7, 0xFFFF, 0), restart_page(8, client, flags)
    with image.open("r+b") as file:
        file.seek(log)
        file.write(newer + older)
    present = inspected(image)
    assert present is not None
    assert (present.problems == (windows.UNCLEAN,)) == unclean


def restart_page(sequence: int, client: int, flags: int) -> bytes:
    """The page at the beginning of a log that says what is in it."""
    head = struct.pack("<4sHHQIIH", b"RSTR", 30, 9, 0, 4096, 4096, 48)
    area = struct.pack("<QHHHH", sequence, 1, 0xFFFF, client, flags)
    return (head.ljust(48, b"\0") + area).ljust(4096, b"\0")


# ------------------------------------------------------------------------------------- the hive


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SYSTEM hive."""
    hive = tmp_path_factory.mktemp("hive") / "SYSTEM"
    made.system_hive(hive, made.TEN)
    return hive


def test_every_key_and_value_is_read_as_another_library_reads_it(system: Path):
    theirs = {}
    for key in RegistryHive(str(system)).recurse_subkeys(as_json=True, fetch_values=True):
        for value in key.values:
            theirs[key.path.lstrip("\\"), value["name"].removeprefix("(default)")] = value["value"]
    with system.open("rb") as file:
        hive = Hive(file, system.stat().st_size)
        ours = {
            (regipys(path), value.name): value
            for path, key in walk(hive)
            for value in key.values().values()
        }
    assert set(ours) == set(theirs)
    for place, value in ours.items():
        assert theirs[place] in (value.number, value.text, value.data.hex())


def regipys(name: str) -> str:
    """A name as regipy gives it, which knows only ASCII."""
    return name.encode("ascii", "replace").decode().replace("?", "\ufffd")


def walk(hive: Hive) -> Iterator[tuple[str, Key]]:
    """All keys, with their paths."""
    waiting = [("", hive.root)]
    while waiting:
        path, key = waiting.pop()
        yield path, key
        waiting += [(f"{path}\\{child.name}".lstrip("\\"), child) for child in key.children()]


def test_a_value_lies_where_it_is_said_to(system: Path):
    content = system.read_bytes()
    with system.open("rb") as file:
        values = [
            value for _, key in walk(Hive(file, len(content))) for value in key.values().values()
        ]
    assert len(values) > 50
    for value in values:
        assert value.place is not None
        assert content[value.place : value.place + len(value.data)] == value.data


@given(
    patches=st.lists(
        st.tuples(st.integers(0, 20479), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
    )
)
def test_no_damaged_hive_gives_anything_but_a_sentence(
    patches: list[tuple[int, bytes]], damaged_hive: bytearray
):
    data = bytearray(damaged_hive)
    for offset, new in patches:
        data[offset : offset + len(new)] = new
    with contextlib.suppress(RecoveryError), reading("The registry"):
        hive = Hive(io.BytesIO(bytes(data)), len(data))
        windows.current_control_set(hive)
        for _, key in walk(hive):
            key.values()


@pytest.fixture(scope="module")
def damaged_hive(system: Path) -> bytearray:
    """What is damaged then."""
    return bytearray(system.read_bytes())


def test_no_damaged_volume_gives_anything_but_a_guest_or_a_sentence(sleeper: Path):
    """Whatever stands in the structures of NTFS and of the registry."""
    content = sleeper.read_bytes()
    pages = [at for at in range(0, len(content), 512) if any(content[at : at + 512])]

    @settings(max_examples=settings().max_examples // 4)  # a volume takes longer than a hive
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(pages), st.integers(0, 511), st.binary(min_size=1, max_size=8)
            ),
            min_size=1,
            max_size=8,
        )
    )
    def damage(lies: list[tuple[int, int, bytes]]) -> None:
        patches = [(page + at, new) for page, at, new in lies]
        with volumes.overwritten(sleeper, patches), Chain.open(sleeper, "raw") as chain:
            guest = inspect(chain)
            if guest.system is System.WINDOWS and guest.root is not None:
                tree = Disk(chain).trees[guest.root.volume]
                with contextlib.suppress(RecoveryError):
                    plan_windows(tree, guest.root, Controller.AHCI)

    damage()


def test_a_list_of_keys_that_names_itself_comes_to_an_end(system: Path):
    """An index root (ri) whose entries are that index root, in a key that has subkeys."""
    data = bytearray(system.read_bytes())
    root = 4096 + struct.unpack_from("<I", data, 36)[0]
    listed = struct.unpack_from("<I", data, root + 4 + 28)[0]
    at = 4096 + listed
    data[at + 4 : at + 8] = b"ri" + struct.pack("<H", 2)
    data[at + 8 : at + 16] = struct.pack("<II", listed, listed)
    with pytest.raises(RecoveryError), reading("The registry"):
        Hive(io.BytesIO(bytes(data)), len(data)).find("Select")


# --------------------------------------------------------------------------------- on the volume


@pytest.mark.parametrize("options", [(), ("--cluster-size", "512")])
def test_a_files_bytes_lie_where_they_are_said_to(tmp_path: Path, options: tuple[str, ...]):
    tree, image = volumes.sample(tmp_path / "tree"), tmp_path / "volume.img"
    volumes.ntfs(*options)(tree, image)
    content = image.read_bytes()
    with tree_of(image) as tree_:
        node = tree_.find("folder/inner/large.bin")
        assert isinstance(node, NtfsNode)
        pieces = [content[offset : offset + length] for _, offset, length in node.places()]
    assert b"".join(pieces) == (tree / "folder/inner/large.bin").read_bytes()


def test_ntfscat_reads_what_is_read_here(disk: Path, tmp_path: Path):
    volume = tmp_path / "volume.img"
    volume.write_bytes(disk.read_bytes()[made.VOLUME_AT :])
    theirs = subprocess.run(["ntfscat", volume, SYSTEM], capture_output=True, check=True).stdout
    with tree_of(disk, "p1") as tree:
        node = tree.find(SYSTEM)
        assert node is not None
        assert node.content().stream.read() == theirs
