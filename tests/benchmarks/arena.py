"""The files that the contests of one format share: the source, repositories, and QEMU's chain."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path

MIB = 1 << 20
OURS = [sys.executable, "-m", "vdbackup"]


def make_source(path: Path, gib: float) -> None:
    """Half zeros (written, not holes), a quarter random, a quarter text; in pieces of 4 MiB."""
    dice = random.Random(7)
    words = [bytes(dice.choices(range(97, 123), k=dice.randint(2, 9))) for _ in range(5000)]
    with path.open("wb") as file:
        for _ in range(int(gib * 256)):
            text = b" ".join(dice.choices(words, k=170_000))[:MIB].ljust(MIB, b".")
            file.write(bytes(2 * MIB) + dice.randbytes(MIB) + text)
        os.fsync(file.fileno())


def change(path: Path, share: float, seed: int) -> None:
    """Rewrite `share` of the source in pieces of 64 KiB at random places that hold data."""
    dice = random.Random(seed)
    pieces = int(path.stat().st_size * share) >> 16
    with path.open("r+b") as file:
        for _ in range(pieces):
            chunk = dice.randrange(path.stat().st_size // (4 * MIB))
            file.seek(chunk * 4 * MIB + 2 * MIB + dice.randrange(32) * 65536)
            file.write(dice.randbytes(65536))
        os.fsync(file.fileno())


class Arena:
    """The files that the contests of one format share.

    Attributes:
        source: the disk.
        changed: the same with 1 % changed since `before_change` was made of it.
        full, before_change: repositories with one full.
        with_child: a repository with a full and an incremental that changed 5 %.
        out: what the contests write to.
    """

    def __init__(self, folder: Path, gib: float, disk_format: str) -> None:
        """Make in `folder` what is not there yet."""
        self.folder = folder
        self.format = disk_format
        self.source = folder / "source.raw"
        self.out = folder / "out"
        self.out.mkdir(exist_ok=True)
        if not self.source.exists():
            make_source(self.source, gib)
        self.changed = folder / f"changed-{disk_format}.raw"

    @cached_property
    def full(self) -> Path:
        """Made when it is first asked for, as all that not every contest needs."""
        made = self.folder / f"full-{self.format}"
        if not made.exists():
            self._capture(self.source, made)
        return made

    @property
    def layer(self) -> Path:
        """The full's file."""
        return self.full / f"source/0001-full.{self.format}"

    @cached_property
    def before_change(self) -> Path:
        """Made with `changed`."""
        made = self.folder / f"before-{self.format}"
        if not made.exists():
            shutil.copy(self.source, self.changed)
            self._capture(self.changed, made)
            change(self.changed, 0.01, 1)
        return made

    @cached_property
    def with_child(self) -> Path:
        """Made with `moving.raw`, the disk as the child has it."""
        made = self.folder / f"child-{self.format}"
        if not made.exists():
            moving = self.folder / "moving.raw"
            shutil.copy(self.source, moving)
            self._capture(moving, made)
            change(moving, 0.05, 2)
            self._capture(moving, made)
        return made

    def remove(self) -> None:
        """What no other format needs: all of them at once would take 72 GB for 4 GiB."""
        shutil.rmtree(self.out, ignore_errors=True)
        for path in self.folder.glob(f"*-{self.format}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def cool(self) -> None:
        """Let the page cache forget all of these files."""
        os.sync()
        for path in filter(Path.is_file, self.folder.rglob("*")):
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _capture(self, source: Path, repository: Path) -> None:
        run([*OURS, "backup", str(source), "-r", str(repository), "--format", self.format])

    def _make_qcow2_chain(self) -> None:
        """The same chain for qemu-img: `rebase` stores only what differs from the base."""
        base, child = self.folder / "base.qcow2", self.folder / "child.qcow2"
        assert self.with_child.exists()  # it came with the disk that the chain is to hold
        if not base.exists():
            run(["qemu-img", "convert", "-O", "qcow2", str(self.source), str(base)])
        if not child.exists():
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "moving.raw", "-F", "raw"]
            run([*create, child.name], cwd=self.folder)
            rebase = ["qemu-img", "rebase", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2"]
            run([*rebase, child.name], cwd=self.folder)

    def chain(self, disk_format: str) -> list[Path]:
        """A base and a child that holds 5 % of it: our own layers, or what qemu-img made."""
        if disk_format == self.format:
            layers = self.with_child / "moving"
            return [layers / f"{name}.{disk_format}" for name in ("0001-full", "0002-incremental")]
        self._make_qcow2_chain()
        return [self.folder / "base.qcow2", self.folder / "child.qcow2"]

    def clear(self) -> None:
        """Empty the folder that the contests write to."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

    def copy_older(self) -> None:
        """A raw file with the state before the child, for a restore of what differs."""
        self.clear()
        shutil.copy(self.source, self.out / "ours.raw")

    def copy_before_change(self) -> None:
        """A repository with one full, for an incremental of what has changed since."""
        self.clear()
        shutil.copytree(self.before_change, self.out / "repository")

    def copy_child(self) -> None:
        """A repository with a full and a child."""
        self.clear()
        shutil.copytree(self.with_child, self.out / "repository")

    def copy_chain(self, disk_format: str) -> None:
        """The same chain for qemu-img."""
        self.clear()
        for path in self.chain(disk_format):
            shutil.copy(path, self.out / path.name)
            (self.out / path.name).chmod(0o600)


def run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=cwd)
