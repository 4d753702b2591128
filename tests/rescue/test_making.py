"""A medium is planned in figures, made whole or not at all, and starts with BIOS and UEFI."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest

from tests import running as processes
from vdbackup.errors import (
    Cancelled,
    NoSpace,
    ProgramMissing,
    RescueMediumFailed,
    TargetExists,
    UnfitTarget,
)
from vdbackup.jobs import CancelToken, Task
from vdbackup.rescue import making, running


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what lies about meanwhile is to be found."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def program_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a script be mmdebstrap."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "mmdebstrap").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# ------------------------------------------------------------------------------------- the plan


def test_the_plan_says_what_is_made_of_what_and_how_long_it_takes(tmp_path: Path):
    image = tmp_path / "rescue.iso"
    text, window = making.plan(image, window=False), making.plan(image)
    for words in (r"Debian \w+", r"\d+ of its packages", r"\d+ MiB", r"minutes"):
        assert re.search(words, text.summary)
    assert text.creates == (str(image),)
    assert "window" in window.summary
    assert len(window.files) > len(text.files)


def test_programs_that_are_missing_are_named_with_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = making.plan(tmp_path / "rescue.iso", window=False)
    assert "mmdebstrap, mksquashfs, grub-mkrescue, xorriso, mformat are not" in plan.hindrance
    assert "Install mmdebstrap squashfs-tools grub-common xorriso mtools." in plan.hindrance
    with pytest.raises(ProgramMissing, match="Install mmdebstrap"):
        making.run(plan, Task())
    assert not (tmp_path / "rescue.iso").exists()


def test_what_is_there_is_not_replaced_unless_that_is_meant(tmp_path: Path):
    image = tmp_path / "rescue.iso"
    image.write_bytes(b"somebody's")
    with pytest.raises(TargetExists):
        making.plan(image)
    assert making.plan(image, overwrite=True).replaces == (str(image),)


@pytest.mark.parametrize("name", [".", "no/folder.iso", "pipe"])
def test_what_cannot_be_a_file_is_refused(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnfitTarget):
        making.plan(tmp_path / name)


def test_too_little_space_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(making.durable, "free_space", lambda _folder: 100 << 20)
    with pytest.raises(NoSpace, match="has 100 MiB free"):
        making.plan(tmp_path / "rescue.iso")


# ------------------------------------------------------------------------------------ whole or not


def test_a_program_that_fails_leaves_nothing_and_its_own_words_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
):
    program_of(tmp_path, monkeypatch, 'echo "E: no such suite." >&2; exit 25')
    plan = making.plan(tmp_path / "rescue.iso", window=False)
    with pytest.raises(RescueMediumFailed, match="mmdebstrap says: no such suite"):
        making.run(plan, Task())
    assert sorted(tmp_path.glob("rescue*")) == []
    assert list(temporary.iterdir()) == []


def test_a_cancel_ends_all_that_was_started_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
):
    """Its children, too: a chroot's apt is one."""
    program_of(tmp_path, monkeypatch, 'sleep 1000 & echo > "$TMPDIR/started"; wait')
    plan = making.plan(tmp_path / "rescue.iso", window=False)
    cancel = CancelToken()

    def cancel_once_started() -> None:
        while not list(temporary.glob("*/started")):
            time.sleep(0.02)
        cancel.cancel()

    thread = threading.Thread(target=cancel_once_started)
    thread.start()
    with pytest.raises(Cancelled):
        making.run(plan, Task(cancel=cancel))
    thread.join()
    assert sorted(tmp_path.glob("rescue*")) == []
    assert list(temporary.iterdir()) == []
    assert processes.naming(tmp_path / "programs" / "mmdebstrap") == []


# ---------------------------------------------------------------------------- what it is made into


def test_the_image_starts_from_cd_and_stick_with_bios_and_uefi(tmp_path: Path):
    """A stand-in's tree, packed and written by the programs that do it for a Debian.

    What the image is, xorriso says, and unsquashfs what lies in it.
    """
    tree, live = tmp_path / "tree", tmp_path / "medium" / "live"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "hostname").write_text("rescue\n")
    for left_out in ("dev", "boot"):
        (tree / left_out).mkdir()
        (tree / left_out / "file").write_text("not needed")
    live.mkdir(parents=True)
    for name in ("vmlinuz", "initrd.img"):
        (live / name).write_bytes(name.encode() * 100)
    signed = tmp_path / "medium" / "EFI" / "BOOT"
    signed.mkdir(parents=True)
    (signed / "BOOTX64.EFI").write_bytes(b"shim" * 200_000)
    (signed / "grubx64.efi").write_bytes(b"GRUB" * 800_000)
    with tarfile.open(tmp_path / "tree.tar", "w") as tar:
        tar.add(tree, ".")
    squashfs = live / "filesystem.squashfs"
    running.run([["cat", str(tmp_path / "tree.tar")], making.squashing(squashfs)], Task(), tmp_path)
    listed = output("unsquashfs", "-l", "-d", "", squashfs).split()
    assert {"/etc/hostname", "/dev", "/boot"} <= set(listed)
    assert not {"/dev/file", "/boot/file"} & set(listed)

    image = tmp_path / "rescue.iso"
    making.write_image(tmp_path / "medium", image, Task())
    found = output("xorriso", "-indev", image, "-report_el_torito", "plain", "-find", "/")
    assert re.search(r"El Torito boot img .* BIOS ", found)
    assert re.search(r"El Torito boot img .* UEFI ", found)
    assert "'/live/filesystem.squashfs'" in found
    assert "'/boot/grub/grub.cfg'" in found
    system_area = output("xorriso", "-indev", image, "-report_system_area", "plain")
    assert "MBR" in system_area
    assert "GPT" in system_area

    start, sectors = esp_of(system_area)
    with image.open("rb") as file:
        file.seek(start * 512)
        (tmp_path / "esp.img").write_bytes(file.read(sectors * 512))
    for name in ("BOOTX64.EFI", "grubx64.efi"):  # as Debian signed them: not a byte is another
        path = f"::/EFI/BOOT/{name}"
        copied = subprocess.check_output(["mtype", "-i", tmp_path / "esp.img", path])
        assert copied == (signed / name).read_bytes()
    first = output("mtype", "-i", tmp_path / "esp.img", "::/boot/grub/grub.cfg")
    assert "configfile $prefix/grub.cfg" in first


def esp_of(system_area: str) -> tuple[int, int]:
    """Where the EFI system partition lies, in sectors of 512 bytes."""
    esp = "28732ac11ff8d211ba4b00a0c93ec93b"
    (number,) = re.findall(rf"GPT type GUID +: +(\d+) +{esp}", system_area)
    (found,) = re.findall(rf"GPT start and size : +{number} +(\d+) +(\d+)", system_area)
    return int(found[0]), int(found[1])


def output(*command: str | Path) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout
