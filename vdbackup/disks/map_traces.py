"""What is left of a virtual disk that lost far more than its header: the maps that lie behind it.

A map names places of its own file: all in units of the format, each once, none behind the end, most
in a row. Of these there are many in one sector, which a raw disk has as good as never (none in
1,500 programs and data files of a Linux); and only what begins as nothing that is known, or with
zeros, is looked at.

A small disk in a format whose map lies in front has lost all of it. What tells it then is that
the disk begins where its data do: a boot sector or file system a few blocks within the file.
Nothing is left to see where the disk in it has neither, nor where its own beginning was lost, too.

Sources: VMware's "Virtual Disk Format 5.0"; QEMU's docs/interop/{qcow2,qed_spec,parallels}.rst and
block/{qcow,vdi}.c; [MS-VHDX] 2.6.
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from vdbackup.disks.disk import SECTOR
from vdbackup.disks.extents import distinct
from vdbackup.disks.host_file import HostFile
from vdbackup.translation import tr

_Sectors = npt.NDArray[np.uint32]
_MIB = 1 << 20
_WINDOW = 8 * _MIB
"""Bytes from the file's beginning that are looked through: more than the maps of 64 GiB need."""
_MIN_GRAINS = 32
"""Entries of one sector of a grain table that tell it: it holds 128."""
_MIN_CLUSTERS = 8
"""Entries of one sector of a table of QCOW's: it holds 64."""
_CLUSTERS = {1 << bits for bits in range(12, 22)}
"""Bytes; smaller ones, which QCOW may have, too, look like the tables of programs."""
_MIN_CLUSTER = min(_CLUSTERS)
_MIN_BLOCKS = 4
_GRAIN = 128
"""Sectors; what everybody's VMDKs have."""
_TABLE = 4
"""Sectors of a grain table."""
_COPIED = np.uint64(1 << 63)
_FREE = 0xFFFFFFFE
"""In VDI's map, from there on: a block that lies nowhere."""
_FEW = 1024
"""Entries of a map that are looked at before all of it is."""
_MARKER = struct.Struct("<QI")
"""Before a compressed grain: its first sector on the disk, the bytes that follow."""
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_PARTITION = struct.Struct("<B3xB3xII")
"""Of an MBR: status, kind, first sector, sectors."""
_QED_CLUSTERS = range(12, 27)
"""Bits, from 4 KiB to 64 MiB."""
_LOST = (SECTOR, 4 << 10, 64 << 10, _MIB)
"""Bytes that are lost, as a rule; VirtualBox's map lies at 1 MiB."""
_FIRST_DATA = range(64 << 10, _MIB, 64 << 10)
"""Where small disks' data begin; a raw disk has its first partition at sector 63 or 1 MiB."""


def of_maps(file: HostFile) -> str | None:
    """What a file that begins as nothing known was, in words, by the maps in it; raises OSError."""
    window = file.read(0, _WINDOW)
    window += bytes(-len(window) % SECTOR)
    if window.count(0) == len(window):
        return None
    end = file.size
    return next((what for what, is_one in _MAPS if is_one(file, window, end)), None)


def _has_grain_map(_file: HostFile, window: bytes, end: int) -> bool:
    sectors = np.frombuffer(window, "<u4").reshape(-1, SECTOR // 4)
    own = np.arange(len(sectors), dtype=np.uint32)
    return _has_directory(sectors, own, end) or _has_table(sectors, own, end)


def _has_directory(sectors: _Sectors, own: npt.NDArray[np.uint32], end: int) -> bool:
    """A directory names grain tables one behind the other, of which the first is behind itself.

    Of a long one only the last sectors may be left; each names as many tables.
    """
    first, last = sectors[:, 0], sectors[:, -1]
    likely = (own < first) & (first < last) & (last < end // SECTOR)
    likely[likely] = (np.diff(sectors[likely]) == _TABLE).all(1)
    behind = (first[likely] - own[likely]) % (sectors.shape[1] * _TABLE)
    return bool((behind <= 2).any())  # the sector after it, or after the one that it ends in


def _has_table(sectors: _Sectors, own: npt.NDArray[np.uint32], end: int) -> bool:
    """A table is four sectors of grains behind it; who writes much puts those in a row."""
    fits = _grains_fit(sectors[:, :1], own, end)  # the first entry rules most of data out
    named = fits & sectors.any(1)  # what is all zeros fits, and names nothing
    fits[named] = _grains_fit(sectors[named], own[named], end)
    named &= _in_runs(fits, _TABLE)
    named[named] = (sectors[named] > 1).sum(1) >= _MIN_GRAINS
    return any(_is_in_a_row(row) for row in sectors[fits & named].astype(np.int64))


def _grains_fit(sectors: _Sectors, own: npt.NDArray[np.uint32], end: int) -> npt.NDArray[np.bool_]:
    """Of which sectors each entry is a grain behind it in the file, or none; 1 is one of zeros."""
    in_file = (sectors % _GRAIN == 0) & (sectors > own[:, None]) & (sectors < end // SECTOR)
    return np.asarray(((sectors <= 1) | in_file).all(1))


def _is_in_a_row(row: npt.NDArray[np.int64]) -> bool:
    in_a_row = int((np.diff(row) == _GRAIN).sum())
    return in_a_row >= _MIN_GRAINS // 2 and _are_distinct(row[row > 1])


def _in_runs(fits: npt.NDArray[np.bool_], length: int) -> npt.NDArray[np.bool_]:
    """Which of them are in a run of at least so many that are true."""
    if len(fits) < length:
        return np.zeros(len(fits), bool)
    begins = np.convolve(fits, np.ones(length, int), "valid") == length
    return np.convolve(begins, np.ones(length, int)) > 0


def _has_grain_markers(_file: HostFile, window: bytes, _end: int) -> bool:
    """A stream-optimized VMDK is compressed grains one behind the other, each behind its marker."""
    for at in range(0, len(window) // 8, SECTOR):
        following = _after_grain(window, at)
        if following is not None and _after_grain(window, following) is not None:
            return True
    return False


def _after_grain(window: bytes, at: int) -> int | None:
    """Where the marker behind a compressed grain lies; None where there is no grain."""
    if window[at + 12 : at + 14] not in _ZLIB:
        return None
    sector, length = _MARKER.unpack_from(window, at)
    if sector % _GRAIN or not 0 < length <= 2 * _GRAIN * SECTOR:
        return None
    behind = at + _MARKER.size + length
    return int(behind + -behind % SECTOR)


def _has_cluster_table(_file: HostFile, window: bytes, end: int) -> bool:
    """An L2 table; with subclusters a bitmap stands behind each entry."""
    sectors = np.frombuffer(window, ">u8").reshape(-1, SECTOR // 8)
    # the first entry alone rules most sectors of data out, and what is all zeros names nothing
    may_be = _in_file(_places(sectors[:, 0]), end)
    may_be[may_be] = sectors[may_be].any(1)
    places = _places(sectors[may_be])
    return _names_clusters(places, end) or _names_clusters(places[:, ::2], end)


def _places(entries: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    return (entries.astype(np.uint64) & ~_COPIED).astype(np.int64)


def _in_file(places: npt.NDArray[np.int64], end: int) -> npt.NDArray[np.bool_]:
    return np.asarray((places % _MIN_CLUSTER == 0) & (places >= 0) & (places < end))


def _names_clusters(places: npt.NDArray[np.int64], end: int) -> bool:
    likely = _in_file(places, end).all(1) & ((places > 0).sum(1) >= _MIN_CLUSTERS)
    return any(_are_clusters(row) for row in places[likely])


def _are_clusters(row: npt.NDArray[np.int64]) -> bool:
    """Whether places are clusters, by the step from one to the next that most have."""
    used = row[row > 0]
    steps, counts = np.unique(np.diff(row)[(row[1:] > 0) & (row[:-1] > 0)], return_counts=True)
    if not len(steps) or counts.max() < _MIN_CLUSTERS - 1 or not _are_distinct(used):
        return False
    cluster = int(steps[counts.argmax()])
    return cluster in _CLUSTERS and not (used % cluster).any()


def _has_vhdx_metadata(_file: HostFile, window: bytes, _end: int) -> bool:
    """The region of the metadata is aligned to a MiB and begins with its own magic."""
    return any(window.startswith(b"metadata\0\0", at) for at in range(_MIB, len(window), _MIB))


def _has_qed_tables(file: HostFile, window: bytes, end: int) -> bool:
    """The L1 table is the second cluster, and names L2 tables, which name clusters of data."""
    for bits in _QED_CLUSTERS:
        cluster = 1 << bits
        tables = _clusters(window[cluster : cluster + (4 << 10)], cluster, end)
        if tables is None:
            continue
        data = _clusters(file.read(int(tables[0]), 4 << 10), cluster, end)
        if data is not None and not np.isin(data, tables).any():
            return True
    return False


def _clusters(table: bytes, cluster: int, end: int) -> npt.NDArray[np.uint64] | None:
    """The places that a table of QED's names; None where it is none."""
    places = np.frombuffer(table[: len(table) // 8 * 8], "<u8")
    places = places[places > 0]
    if not len(places) or not _are_distinct(places):
        return None
    return places if (places % cluster == 0).all() and (places < end).all() else None


def _has_block_map(_file: HostFile, window: bytes, end: int) -> bool:
    """A map of blocks of 1 MiB, in blocks or in sectors, that names the file's last one."""
    words, blocks = np.frombuffer(window, "<u4"), end // _MIB
    return any(
        _ends_with(words[lost // 4 :], blocks, unit)
        for lost in _LOST
        for unit in (1, _MIB // SECTOR)
    )


def _ends_with(entries: npt.NDArray[np.uint32], blocks: int, unit: int) -> bool:
    known = _that_fit(entries, blocks, unit)
    used = known[(known > 0) & (known < _FREE)] // unit
    # VirtualBox's header and map take two before the data; the quick question comes first
    if len(used) < _MIN_BLOCKS or blocks - int(used.max()) > 3:
        return False
    return _are_distinct(used)


def _that_fit(entries: npt.NDArray[np.uint32], blocks: int, unit: int) -> npt.NDArray[np.uint32]:
    """Those before the first that names no block of the file; in most files that comes soon."""
    for count in (_FEW, len(entries)):
        some = entries[:count]
        fits = (some >= _FREE) | ((some % unit == 0) & (some // unit < blocks))
        if not fits.all():
            return some[: int(np.argmin(fits))]
    return entries


def _are_distinct(values: npt.NDArray[np.integer]) -> bool:
    return len(distinct(values.astype(np.int64))) == len(values)


def _begins_late(_file: HostFile, window: bytes, _end: int) -> bool:
    return any(_is_beginning(window[at : at + 4096]) for at in _FIRST_DATA)


def _is_beginning(data: bytes) -> bool:
    """Whether a disk or volume begins so: a boot sector, ext's first superblock, XFS, LVM, LUKS."""
    if data.startswith((b"XFSB", b"LUKS\xba\xbe")) or data[SECTOR : SECTOR + 8] == b"LABELONE":
        return True
    if data[510:512] == b"\x55\xaa" and (_has_partitions(data) or data[:3:2] == b"\xeb\x90"):
        return True
    return data[1080:1082] == b"\x53\xef" and data[1114:1116] == b"\0\0"  # in block group 0


def _has_partitions(sector: bytes) -> bool:
    entries = [_PARTITION.unpack_from(sector, 446 + 16 * number) for number in range(4)]
    used = [(start, length) for _, kind, start, length in entries if kind]
    return all(status in (0, 0x80) for status, *_ in entries) and bool(used) and all(map(all, used))


_MAPS = (
    (tr("a VMDK disk"), _has_grain_map),
    (tr("a VMDK disk"), _has_grain_markers),
    (tr("a QCOW2 or QCOW disk"), _has_cluster_table),
    (tr("a VHDX disk"), _has_vhdx_metadata),
    (tr("a QED disk"), _has_qed_tables),
    (tr("a VDI or Parallels disk"), _has_block_map),
    (tr("a virtual disk or a raw one"), _begins_late),
)
