"""A chain: a disk and all its parents, read through one flat map."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from vdbackup.disks.disk import ParentRef, VirtualDisk
from vdbackup.disks.extents import ZERO, BlockMap, flatten
from vdbackup.disks.formats import open_disk, probe
from vdbackup.errors import ParentError

MAX_LAYERS = 10_000
"""A chain that is longer is a circle or an attack."""


class HostReader(Protocol):
    """A file whose bytes lie where a map says."""

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the file on."""


def read_flat(flat: BlockMap, files: Sequence[HostReader], offset: int, view: memoryview) -> None:
    """Fill `view` from byte `offset` on; the map's layer numbers are positions in `files`."""
    if offset < 0 or offset + len(view) > flat.size:
        raise ValueError(f"bytes {offset}+{len(view)} lie beyond the end at {flat.size}")
    run = flat.run_at(offset)
    done = 0
    while done < len(view):
        at = offset + done
        end = int(flat.starts[run + 1]) if run + 1 < len(flat.starts) else flat.size
        part = view[done : done + end - at]
        layer = int(flat.layers[run])
        if layer == ZERO:
            part[:] = bytes(len(part))
        else:
            files[layer].read_host(int(flat.hosts[run]) + at - int(flat.starts[run]), part)
        done += len(part)
        run += 1


class Chain:
    """A disk as its user sees it. Use it as a context manager.

    Reading finds the run in the flat map (a binary search) and reads straight from the file that
    holds it: the length of the chain costs nothing per read. `readinto` may be called from several
    threads at once.

    Attributes:
        layers: the files, base first, the disk itself last.
        map: BlockMap; its layer numbers are positions in `layers`; nothing in it is UNALLOCATED.
        size, sector_size: in bytes, the disk's own.
    """

    def __init__(self, layers: Sequence[VirtualDisk]) -> None:
        self.layers = tuple(layers)
        self.map: BlockMap = flatten([layer.block_map() for layer in self.layers])
        self.size = self.layers[-1].info.virtual_size
        self.sector_size = self.layers[-1].info.sector_size

    @classmethod
    def open(cls, path: Path, disk_format: str | None = None) -> Self:
        """Open a disk and, by its links, all its parents, for reading.

        Args:
            path: the disk.
            disk_format: its format; found out by its first bytes if None. A raw disk's contents
                are the guest's to choose, so whoever knows that it is raw must say so.

        Raises:
            ParentError: a parent is missing, is not the disk that the child was made on, lies
                outside the disk's own folder (a disk image must not be able to make us read any
                file it names), or the chain is a circle.
            DiskFormatError: a file breaks its format's rules.
        """
        layers: list[VirtualDisk] = []
        try:
            layers.append(open_disk(path, disk_format or probe(path)))
            while (parent := layers[-1].info.parent) is not None:
                where = _inside(layers[-1].path, parent.relative_path)
                if len(layers) >= MAX_LAYERS or where in (layer.path for layer in layers):
                    raise ParentError(f"The parents of {path} form a circle.", "Use another copy.")
                layers.append(_open_parent(layers[-1], parent, where))
            layers.reverse()
            return cls(layers)
        except BaseException:
            for layer in layers:
                layer.close()
            raise

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the disk's bytes from `offset` on."""
        read_flat(self.map, self.layers, offset, view)

    def close(self) -> None:
        """Close all files."""
        for layer in self.layers:
            layer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _inside(child: Path, hint: str) -> Path:
    """The parent's path by the child's hint, if it lies in the child's own folder."""
    folder = child.parent.resolve()
    where = folder / hint
    if not hint or where.parent.resolve() != folder:
        raise ParentError(
            f"{child} names a parent outside its own folder: {hint!r}.",
            "Put the whole chain into one folder if you trust it.",
        )
    return where


def _open_parent(child: VirtualDisk, wanted: ParentRef, where: Path) -> VirtualDisk:
    # os.path: a name that no file can have is a missing parent, where Path raises OSError
    if os.path.islink(where) or not os.path.isfile(where):
        raise ParentError(
            f"{child.path.name} needs its parent {where.name}, which is missing.",
            f"Put {where.name} back into {where.parent}, or use a point that does not need it.",
        )
    parent = open_disk(where, child.info.format)
    try:
        info = parent.info
        if info.content_id != wanted.content_id or (
            wanted.disk_id and info.disk_id and wanted.disk_id != info.disk_id
        ):
            raise ParentError(
                f"{where.name} is no longer the disk that {child.path.name} was made on: another "
                "program has written to it, or it was replaced.",
                f"Put the original {where.name} back.",
            )
    except BaseException:
        parent.close()
        raise
    return parent
