"""QEMU as a reader that is not ours: what it makes of a disk and of its chain."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def assert_holds(disk: Path, raw: Path, disk_format: str = "vmdk") -> None:
    """QEMU reads the same bytes, and as many, from the disk through its chain as from `raw`."""
    done = _run("qemu-img", "compare", "-f", disk_format, "-F", "raw", str(disk), str(raw))
    assert done.returncode == 0, f"{disk.name}: {done.stdout}{done.stderr}"
    # compare only warns of another size if the rest is zeros
    assert "size mismatch" not in done.stdout, f"{disk.name}: {done.stdout}"


def assert_sound(disk: Path, disk_format: str = "vmdk") -> None:
    """`qemu-img check` finds nothing wrong with the file's own structures."""
    done = _run("qemu-img", "check", "-f", disk_format, str(disk))
    assert done.returncode == 0, f"{disk.name}: {done.stdout}{done.stderr}"
    assert "No errors" in done.stdout


def chain(disk: Path) -> list[dict[str, Any]]:
    """What QEMU says of the disk and its parents, the disk first."""
    done = _run("qemu-img", "info", "--backing-chain", "--output", "json", str(disk))
    assert done.returncode == 0, done.stderr
    layers: list[dict[str, Any]] = json.loads(done.stdout)
    return layers


def chain_names(disk: Path) -> list[str]:
    """The files that QEMU opens for the disk, the disk itself first."""
    return [Path(layer["filename"]).name for layer in chain(disk)]


def create(disk: Path, size: int, backing: str | None = None) -> None:
    """Make a monolithicSparse VMDK; `backing` is a name in the same folder."""
    parent = ["-b", backing, "-F", "vmdk"] if backing else []
    command = ["qemu-img", "create", "-q", "-f", "vmdk", *parent, disk.name, str(size)]
    subprocess.run(command, cwd=disk.parent, check=True, capture_output=True)


def make(disk: Path, size: int, disk_format: str, *options: str) -> None:
    """Make an empty disk in any format that QEMU has (its names: "vpc" is VHD)."""
    command = ["qemu-img", "create", "-q", "-f", disk_format, *options, str(disk), str(size)]
    subprocess.run(command, check=True, capture_output=True)


def io(disk: Path, *commands: str, disk_format: str = "vmdk") -> str:
    """Run commands of qemu-io; raises CalledProcessError where one of them fails.

    qemu-io says on its standard output that a write failed, and ends with 0 all the same.
    """
    arguments = [part for command in commands for part in ("-c", command)]
    done = _run("qemu-io", "-f", disk_format, *arguments, str(disk))
    if done.returncode or "failed" in done.stdout:
        raise subprocess.CalledProcessError(
            done.returncode or 1, "qemu-io", done.stdout, done.stderr
        )
    return done.stdout


@contextmanager
def opened(disk: Path, *options: str, disk_format: str = "vmdk") -> Iterator[Callable[[str], str]]:
    """A QEMU process that has the disk and its parents open, as a virtual machine has.

    Yields what runs one more command of qemu-io in it, and returns the first line that it says.
    """
    with subprocess.Popen(
        ["qemu-io", "-f", disk_format, *options, str(disk)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told, said = process.stdin, process.stdout

        def run(command: str) -> str:
            told.write(f"{command}\n")
            told.flush()
            return said.readline().removeprefix("qemu-io> ")

        assert "iB" in run("length")
        yield run
        told.write("quit\n")
        told.flush()
        process.wait()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
