"""Archives of drivers, and the indexes in them: kmod's own programs find what is there."""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import sevenzip
from vdbackup.errors import RecoveryError
from vdbackup.guest.linux import initramfs
from vdbackup.recovery.retarget.linux import kmod_index
from vdbackup.recovery.retarget.linux.cpio import Member, archive
from vdbackup.recovery.retarget.linux.drivers import INDEXES, Modules, driver_archive

VERSION = "6.1.0-test"
FOLDER = f"usr/lib/modules/{VERSION}"
ELF = b"\x7fELF"

DEP = """\
kernel/virtio.ko:
kernel/virtio_ring.ko: kernel/virtio.ko
kernel/virtio-blk.ko.xz: kernel/virtio_ring.ko kernel/virtio.ko
kernel/block/sd_mod.ko: kernel/block/t10-pi.ko
kernel/block/t10-pi.ko:
kernel/crc.ko:
"""
ALIAS = """\
# Aliases extracted from modules themselves.
alias virtio:d00000002v* virtio_blk
alias virtio:d0000000[3-7]v* virtio
alias scsi:t-0x00* sd_mod
alias crypto-crc-x crc
"""
SYSTEM = Modules.parse(
    {
        "modules.dep": DEP,
        "modules.alias": ALIAS,
        "modules.softdep": "# x\nsoftdep sd_mod pre: crc post: other\n",
    }
)
THERE = Modules.parse(
    {
        "modules.dep": "kernel/block/t10-pi.ko:\n",
        "modules.alias": "alias t10 t10_pi\n",
        "modules.softdep": "",
    }
)


def read(path: str) -> bytes:
    code = ELF + path.encode()
    return lzma.compress(code) if path.endswith(".xz") else code


def unpacked(data: bytes, folder: Path) -> dict[str, bytes]:
    """What 7-Zip finds in an archive."""
    source = folder / "archive.cpio"
    source.write_bytes(data)
    target = folder / "unpacked"
    subprocess.run(
        [sevenzip.PROGRAM, "x", "-y", f"-o{target}", source], check=True, capture_output=True
    )
    found = {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file()
    }
    shutil.rmtree(target)
    return found


def modprobe(root: Path, *arguments: str) -> list[str]:
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    done = subprocess.run(
        ["modprobe", "-d", root, "-S", VERSION, "-C", "/dev/null", *arguments],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def installed(folder: Path, data: bytes) -> Path:
    """A root in which the archive lies above what the initramfs held."""
    for name, content in unpacked(data, folder).items():
        path = folder / "root" / name.removeprefix("usr/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    path = folder / "root" / "lib" / "modules" / VERSION / "kernel" / "block" / "t10-pi.ko"
    path.write_bytes(ELF)
    return folder / "root"


def loaded(root: Path, *arguments: str) -> list[str]:
    lines = modprobe(root, "--show-depends", *arguments)
    return [Path(line.split()[1]).name for line in lines]


def test_modprobe_finds_added_drivers_in_the_order_in_which_they_need_each_other(
    tmp_path: Path,
) -> None:
    data, added = driver_archive(FOLDER, THERE, SYSTEM, ["virtio_blk", "sd_mod", "ahci"], read)
    assert added == ("virtio", "virtio_ring", "virtio_blk", "crc", "sd_mod")
    root = installed(tmp_path, data)
    assert loaded(root, "virtio-blk") == ["virtio.ko", "virtio_ring.ko", "virtio-blk.ko"]
    assert loaded(root, "sd_mod") == ["t10-pi.ko", "crc.ko", "sd_mod.ko"]
    # as the kernel asks for them when a device shows up
    assert modprobe(root, "-R", "virtio:d00000002v00001AF4") == ["virtio_blk"]
    assert modprobe(root, "-R", "virtio:d00000005v00001AF4") == ["virtio"]
    assert modprobe(root, "-R", "scsi:t-0x00") == ["sd_mod"]
    assert modprobe(root, "-R", "crypto_crc_x") == ["crc"]
    assert modprobe(root, "-R", "t10") == ["t10_pi"]


def test_drivers_go_in_unpacked(tmp_path: Path) -> None:
    data, _ = driver_archive(FOLDER, THERE, SYSTEM, ["virtio_blk"], read)
    content = unpacked(data, tmp_path)[f"{FOLDER}/kernel/virtio-blk.ko"]
    assert content == ELF + b"kernel/virtio-blk.ko.xz"


def test_folders_that_are_there_are_not_named_again() -> None:
    """The kernel would take away a link that has a folder's name, and all behind it."""
    data, _ = driver_archive(FOLDER, THERE, SYSTEM, ["virtio_blk"], read)
    assert b"\0usr/lib\0" not in data
    assert f"{FOLDER}/kernel\0".encode() not in data
    bare, _ = driver_archive(FOLDER, Modules(), SYSTEM, ["virtio_blk"], read)
    assert f"{FOLDER}/kernel\0".encode() in bare


def test_nothing_is_added_where_all_is_there() -> None:
    assert driver_archive(FOLDER, SYSTEM, SYSTEM, ["virtio_blk", "nvme"], read) == (b"", ())


@pytest.mark.parametrize("code", [b"", b"no module", lzma.compress(b"no module"), b"\xfd7zXZ\0xx"])
def test_damaged_driver_is_refused_with_its_name(code: bytes) -> None:
    with pytest.raises(RecoveryError, match=r"driver virtio-blk\.ko\.xz .* damaged"):
        driver_archive(
            FOLDER,
            THERE,
            SYSTEM,
            ["virtio_blk"],
            lambda path: code if path.endswith(".xz") else ELF,
        )


@pytest.mark.parametrize(
    "line",
    ["../../etc/x.ko:", "/etc/x.ko:", ":", "kernel/x.ko", "\0:", "softdep", "alias", "alias a"],
)
def test_senseless_lines_are_passed_over(line: str) -> None:
    modules = Modules.parse(dict.fromkeys(INDEXES, f"{line}\n"))
    assert not any("etc" in path for path in modules.files.values())
    assert modules.closure(["x", "a"]) == []


def test_modules_that_need_each_other_come_to_an_end() -> None:
    circle = Modules.parse({"modules.dep": "a.ko: b.ko\nb.ko: a.ko\n"})
    assert sorted(circle.closure(["a"])) == ["a", "b"]


def test_initramfs_with_drivers_behind_it_shows_them() -> None:
    first = archive(
        [Member("init", b"#!/bin/sh", 0o755), Member(f"{FOLDER}/modules.dep", b"a.ko:\n")]
    )
    behind, _ = driver_archive(FOLDER, THERE, SYSTEM, ["virtio_blk"], read)
    found = initramfs.read(first + behind)
    assert found.whole
    assert found.drivers == {"virtio", "virtio_ring", "virtio_blk"}
    assert b"kernel/virtio-blk.ko: kernel/virtio_ring.ko" in found.indexes[f"{FOLDER}/modules.dep"]


names = st.text("abc-_*?", min_size=1, max_size=6)


@given(st.dictionaries(names, st.just("m"), max_size=30))
def test_index_holds_every_alias(aliases: dict[str, str]) -> None:
    """Walked as libkmod walks it."""
    data = kmod_index.aliases(aliases.items())
    assert sorted(walked(data)) == sorted({alias.replace("-", "_") for alias in aliases})


def walked(data: bytes) -> list[str]:
    def number(at: int) -> int:
        return int.from_bytes(data[at : at + 4])

    assert data[:8] == bytes.fromhex("b007f45700020001")
    found = []

    def visit(place: int, key: bytes) -> None:
        at = place & 0x0FFFFFFF
        if not at:
            return
        if place & 0x80000000:
            end = data.index(0, at)
            key += data[at:end]
            at = end + 1
        if place & 0x20000000:
            first, last = data[at], data[at + 1]
            at += 2
            for letter in range(first, last + 1):
                visit(number(at), key + bytes([letter]))
                at += 4
        if place & 0x40000000:
            assert number(at) > 0
            found.append(key.decode())

    visit(number(8), b"")
    return found
