"""A chain: a disk and all its parents, read through one flat map."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vdbackup.disks.beside import behind_link, own_folders
from vdbackup.disks.disk import UNIT, ParentRef, VirtualDisk
from vdbackup.disks.extents import (
    ZERO,
    BlockMap,
    Int64s,
    Ranges,
    aligned,
    as_ranges,
    distinct,
    flatten,
    union,
)
from vdbackup.disks.formats import open_disk, probe
from vdbackup.disks.names import DiskFormat
from vdbackup.errors import ParentError, Remedy
from vdbackup.translation import tr

MAX_LAYERS = 10_000
"""A chain that is longer is a circle or an attack."""


class HostReader(Protocol):
    """A file whose bytes lie where a map says."""

    def read_host(self, host: int, view: memoryview) -> None:
        """Fill `view` from byte `host` of the file on."""


def read_flat(flat: BlockMap, files: Sequence[HostReader], offset: int, view: memoryview) -> None:
    """Fill `view` from byte `offset` on; the map's layer numbers are positions in `files`.

    Raises ValueError beyond the disk's end, and what the files raise.
    """
    if offset < 0 or offset + len(view) > flat.size:
        raise ValueError(
            tr(
                "bytes {offset}+{count} lie beyond the end at {size}",
                offset=offset,
                count=len(view),
                size=flat.size,
            )
        )
    run = flat.run_at(offset)
    done = 0
    while done < len(view):
        at = offset + done
        part = view[done : done + flat.end_of(run) - at]
        layer = int(flat.layers[run])
        if layer == ZERO:
            part[:] = bytes(len(part))
        else:
            files[layer].read_host(int(flat.hosts[run]) + at - int(flat.starts[run]), part)
        done += len(part)
        run += 1


def read_pieces(
    flat: BlockMap, files: Sequence[VirtualDisk], pieces: Ranges, view: memoryview
) -> None:
    """Fill `view` with the bytes of several ranges, one after the other.

    What lies side by side in a file is read in one call, wherever it is in the disk: a child's
    scattered blocks lie in its file as they came. Raises as `read_flat` does.
    """
    if not len(pieces):
        return
    _, lengths, layers, hosts = _parts(flat, pieces)
    follows = (layers[1:] < 0) | (hosts[1:] == hosts[:-1] + lengths[:-1])
    cuts = np.flatnonzero(~follows | (layers[1:] != layers[:-1])) + 1
    at = np.append(0, np.cumsum(lengths))
    heads = [0, *cuts.tolist()]
    first, end = at[heads], np.append(at[cuts], len(view))
    for layer in distinct(layers[heads].astype(np.int64)).tolist():
        own = layers[heads] == layer
        parts = np.stack([hosts[heads][own], first[own], end[own]], axis=1).tolist()
        if layer == ZERO:
            for _, begin, finish in parts:
                np.frombuffer(view[begin:finish], np.uint8)[:] = 0
        else:
            files[layer].read_hosts([(host, a, b) for host, a, b in parts], view)


def _parts(flat: BlockMap, pieces: Ranges) -> tuple[Int64s, Int64s, NDArray[np.int32], Int64s]:
    """Starts, lengths, layers and hosts of the runs that ranges consist of, cut at their edges.

    Raises ValueError beyond the disk's end.
    """
    starts, ends = pieces[:, 0], pieces[:, 0] + pieces[:, 1]
    if starts.min() < 0 or ends.max() > flat.size:
        raise ValueError(
            tr("bytes up to {max} lie beyond the end at {size}", max=ends.max(), size=flat.size)
        )
    run, begins, lengths = flat.cut(pieces)
    return begins, lengths, flat.layers[run], flat.hosts[run] + begins - flat.starts[run]


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

    def __init__(self, layers: Sequence[VirtualDisk], flat: BlockMap | None = None) -> None:
        """Take over the files; `flat` is their map, where that is known already."""
        self.layers = tuple(layers)
        self.map = flat or flatten(layer.block_map() for layer in self.layers)
        self.size = self.layers[-1].info.virtual_size
        self.sector_size = self.layers[-1].info.sector_size
        self._doubts: list[str] | None = None

    @classmethod
    def open(
        cls, path: Path, disk_format: DiskFormat | None = None, parents_in: Sequence[Path] = ()
    ) -> Self:
        """Open a disk and, by its links, all its parents, for reading.

        Args:
            path: the disk.
            disk_format: its format; None where it is to be found out (`contents.decide`). A raw
                disk's contents are the guest's to choose, so whoever knows it must say so.
            parents_in: folders besides the disk's own in which parents may lie: only what the
                user named. A disk image must not be able to make us read any file that it names.

        Raises:
            ParentError: a parent is missing, is not the disk that the child was made on, lies
                in another folder, or the chain is a circle.
            DiskFormatError: a file breaks its format's rules. UnclearFormat: the user has to say
                what it is.
        """
        layers: list[VirtualDisk] = []
        try:
            layers.append(open_disk(path, disk_format or _found_out(path)))
            search = _Search(path, parents_in)
            while (parent := layers[-1].info.parent) is not None:
                if len(layers) >= MAX_LAYERS:
                    raise ParentError(
                        tr("{path} has too many parents.", path=path), tr("Use another copy.")
                    )
                layers.append(search.parent_of(layers[-1], parent))
            layers.reverse()
            return cls(layers)
        except BaseException:
            for layer in layers:
                layer.close()
            raise

    @classmethod
    def alone(cls, path: Path, disk_format: DiskFormat) -> Self:
        """Open a single layer: what it leaves to its parents reads as zeros; raises DiskError."""
        layer = open_disk(path, disk_format)
        try:
            return cls([layer])
        except BaseException:
            layer.close()
            raise

    @classmethod
    def topped(cls, chain: Chain, tip: VirtualDisk) -> Self:
        """A chain and one more disk on top, whatever parent that names, in any format.

        That is what a virtual machine saw that wrote to `tip`. The new chain takes the other's
        place: close it alone. It costs as much as there are runs, however many layers they are of.
        """
        own = tip.block_map().of_layer(len(chain.layers))
        return cls([*chain.layers, tip], own.over(chain.map))

    def held_from(self, number: int) -> Ranges:
        """What the layers from position `number` on hold, in whole units (UNIT).

        Copied through this chain, it makes a disk above the layers before, in any format.
        """
        held: Ranges = np.empty((0, 2), np.int64)
        for layer in self.layers[number:]:
            held = union(held, layer.block_map().own_ranges())
        return aligned(held, UNIT, self.size)

    def readinto(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the disk's bytes from `offset` on.

        Raises OSError, or DiskFormatError where a layer's file ends too early; ValueError beyond
        the disk's end.
        """
        read_flat(self.map, self.layers, offset, view)

    def read(self, pieces: Ranges, view: memoryview) -> None:
        """Fill `view` with the disk's bytes of several ranges; raises as `readinto` does."""
        read_pieces(self.map, self.layers, pieces, view)

    def stored(self, ranges: Ranges) -> Ranges:
        """What of some ranges lies in the layers' files: all of the rest certainly reads as zeros.

        VHD and VHDX count in blocks of 2 MiB and more, which may be holes for the most part.
        """
        if not len(ranges):
            return ranges
        found: list[tuple[int, int]] = []
        parts = (each.tolist() for each in _parts(self.map, ranges))
        for at, length, layer, host in zip(*parts, strict=True):
            if layer != ZERO:
                segments = self.layers[layer].stored(host, length)
                found += [(at + place - host, size) for place, size in segments]
        return union(as_ranges(found), np.empty((0, 2), np.int64))

    def doubts(self) -> list[str]:
        """What is wrong with its files or doubtful in how they are read, a sentence each.

        They are looked for once. Raises OSError.
        """
        if self._doubts is None:
            of_files = [
                f"{each.path} {doubt}."
                for each in self.layers
                for doubt in (each.info.unclean, *each.doubts())
                if doubt
            ]
            self._doubts = [*_not_raw(self.layers), *of_files]
        return self._doubts

    def unread(self) -> list[str]:
        """What lies in its files beside the disk as it is, a sentence each."""
        return [f"{each.path} {what}." for each in self.layers for what in each.unread()]

    def close(self) -> None:
        """Close all files."""
        for layer in self.layers:
            layer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _found_out(path: Path) -> DiskFormat:
    from vdbackup.disks.contents import decide  # late: of a backup's layers the format is known

    return decide(path).disk_format


def parent_of(child: VirtualDisk) -> Path | None:
    """Where the parent lies that a disk names in its own folder; None where it names none.

    Raises ParentError where it is not there, or is not that disk any more.
    """
    wanted = child.info.parent
    if wanted is None:
        return None
    with closing(_Search(child.path, ()).parent_of(child, wanted)) as parent:
        return parent.path


class _Search:
    """Finds the layers of one chain, from its tip down, as the children name them."""

    def __init__(self, tip: Path, parents_in: Sequence[Path]) -> None:
        self._tip = tip
        self._resolved: dict[Path, Path] = {}
        self._others = [self._resolve(folder) for folder in parents_in]
        self._own = {tip: own_folders(tip)}
        self._seen = {_identity(tip)}

    def parent_of(self, child: VirtualDisk, wanted: ParentRef) -> VirtualDisk:
        """The parent, opened, at the first of the places that its child names that has it."""
        altered = link = None
        # the folders that it may lie in: the child's own, and what the user named
        own = self._own.get(child.path) or (self._resolve(child.path.parent),)
        allowed = [*own, *self._others]
        for place in self._places(wanted, own, allowed):
            where = _followed(place)
            # os.path: a name that no file can have is a missing parent, where Path raises OSError
            if self._resolve(where.parent) not in allowed or not os.path.isfile(where):
                link = link or (place if os.path.islink(place) else None)
                continue
            identity = _identity(where)
            if identity in self._seen:
                raise ParentError(
                    tr("The parents of {tip} form a circle.", tip=self._tip),
                    tr("Use another copy."),
                )
            parent = _opened(where, wanted, child)
            if wanted.means(parent.info):
                self._seen.add(identity)
                return parent
            parent.close()
            altered = altered or where
        raise _no_parent(child.path, wanted, altered, link)

    def _places(
        self, wanted: ParentRef, own: Sequence[Path], allowed: Sequence[Path]
    ) -> Iterator[Path]:
        """Where it may be: each name as it stands, then its last part in each allowed folder.

        A moved chain is found by the last part alone, also where the rest is another system's. That
        is done only if the child can tell its parent from a stranger of the same name. A child that
        knows only its parent's identity finds it by that.
        """
        names = [
            name
            for name in (wanted.relative_path, *wanted.other_paths)
            if name and "\0" not in name
        ]
        for name in names:
            for where in (folder / name for folder in own):
                if self._resolve(where.parent) in allowed:
                    yield where
        for name in names if wanted.proves else ():
            last = re.split(r"[/\\]", name)[-1]
            yield from (folder / last for folder in allowed if last)
        if not wanted.named and wanted.disk_id:  # VirtualBox's snapshots, and the disk above them
            from vdbackup.disks.vmdk.foreign import disks_with

            for folder in allowed[1:]:  # in the first it was looked for by who read the child
                yield from disks_with(wanted.disk_id, folder)

    def _resolve(self, folder: Path) -> Path:
        """Each folder once: that took half of the time of opening a long chain."""
        if folder not in self._resolved:
            self._resolved[folder] = folder.resolve()
        return self._resolved[folder]


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _opened(where: Path, wanted: ParentRef, child: VirtualDisk) -> VirtualDisk:
    """What may be the parent of `child`."""
    if not wanted.proves and wanted.disk_format is None:
        _check_said(where, child)
    return open_disk(where, wanted.disk_format or child.info.format)


def _check_said(where: Path, child: VirtualDisk) -> None:
    """Raise ParentError where only its content tells in which format a parent is.

    Guessing would let whoever wrote into a raw disk choose what else is read: a guest needs only
    write the header of a disk of its own, with a parent that it names.
    """
    found = probe(where)
    if found != DiskFormat.RAW and not _is_called_raw(where, found):
        return
    raise ParentError(
        tr(
            "{child} does not say in which format its parent {where} is.",
            child=child.path.name,
            where=where.name,
        ),
        tr(
            "If it is raw, say so in the disk: qemu-img rebase -u -F raw -b {where} ...",
            where=where.name,
        )
        if found == DiskFormat.RAW
        else tr(
            "It begins as a {found} disk does, which a raw disk's system may have written. Say in "
            "the disk what it is: qemu-img rebase -u -F {format} -b {where} ..., or raw.",
            found=found.upper(),
            format=found,
            where=where.name,
        ),
    )


def _is_called_raw(where: Path, found: DiskFormat) -> bool:
    from vdbackup.disks.contents import UnclearFormat, decide  # late: as above

    try:
        return decide(where).disk_format != found
    except UnclearFormat as error:
        return DiskFormat.RAW in error.choices


def _not_raw(layers: Sequence[VirtualDisk]) -> Iterator[str]:
    """Of a parent that is read as raw, as its child says and QEMU does, and does not look so."""
    for parent, child in pairwise(layers):
        if parent.info.format == DiskFormat.RAW and (found := probe(parent.path)) != DiskFormat.RAW:
            yield (
                tr(
                    "{parent} begins as a {found} disk does, and is read as a raw one, for "
                    "{child} says that it is: what is read may be no disk at all.",
                    parent=parent.path,
                    found=found.upper(),
                    child=child.path.name,
                )
            )


def _followed(place: Path) -> Path:
    """Where a parent really lies: a link may lead anywhere, so that is looked at, not the link."""
    return Path(os.path.realpath(place)) if os.path.islink(place) else place


def _no_parent(
    child: Path, wanted: ParentRef, altered: Path | None, link: Path | None
) -> ParentError:
    name = re.split(r"[/\\]", wanted.relative_path)[-1]
    if altered is not None:
        return ParentError(
            tr(
                "{altered} is no longer the disk that {child} was made on: another program has "
                "written to it, or it was replaced.",
                altered=altered.name,
                child=child.name,
            ),
            tr("Put the original {altered} back.", altered=altered.name),
        )
    if link is not None:
        return _behind_link(child, link)
    if not wanted.named:
        return ParentError(
            tr(
                "{child} names its parent by the identity {disk_id} alone, and no disk in "
                "{resolve} has that.",
                child=child.name,
                disk_id=wanted.disk_id,
                resolve=child.parent.resolve(),
            ),
            tr(
                "Put the whole chain into one folder. VirtualBox keeps the first disk in the "
                "folder above its Snapshots."
            ),
            remedy=Remedy.NAME_PARENTS,
        )
    if not name or name != wanted.relative_path.removeprefix("./").removeprefix(".\\"):
        return ParentError(
            tr(
                "{child} names a parent outside its own folder: {relative_path!r}.",
                child=child,
                relative_path=wanted.relative_path,
            ),
            tr("Put the whole chain into one folder."),
            remedy=Remedy.NAME_PARENTS,
        )
    return ParentError(
        tr("{child} needs its parent {name}, which is missing.", child=child.name, name=name),
        tr(
            "Put {name} back into {resolve}, or use a point that does not need it.",
            name=name,
            resolve=child.parent.resolve(),
        ),
    )


def _behind_link(child: Path, link: Path) -> ParentError:
    about = tr("{child} needs its parent {link}, which is", child=child.name, link=link.name)
    if wrong := behind_link(link):
        what, advice = wrong
        return ParentError(f"{about} {what}.", advice)
    return ParentError(
        tr(
            "{about} a link to {link}, outside its own folder.",
            about=about,
            link=os.path.realpath(link),
        ),
        tr("Put the whole chain into one folder."),
        remedy=Remedy.NAME_PARENTS,
    )
