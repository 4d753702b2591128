"""A sound log with its notes, lies told of both, and what may be believed of it then.

Whatever is written over headers and notes, the log is read or refused by a DiskError, and each
moment that is offered as consistent is what was written, to the byte. Of the data of writes there
is no checksum: where those are damaged only that they are read is claimed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from tests.disks.write_log import logs
from tests.disks.write_log.logs import Entry, mark
from tests.noise import noise
from vdbackup.disks.chain import Chain
from vdbackup.disks.raw import RawDisk
from vdbackup.disks.write_log.entries import Entries
from vdbackup.disks.write_log.index import IndexWriter
from vdbackup.disks.write_log.log import WriteLog
from vdbackup.disks.write_log.thin import Thinning
from vdbackup.jobs import Task

SECTORS = 64
SIZE = SECTORS * 512
SECOND = 1_000_000_000
Lie = tuple[str, int, bytes]
"""Of which file, where, and what stands there then; "" bytes cut the file off there."""


class Subject:
    """A log of some hundred entries, in a folder.

    Attributes:
        sound: the bytes of each file, by "log" and "index".
        structures: where, in each, something else stands than the data of a write.
    """

    def __init__(self, folder: Path, *, thinned: bool = False) -> None:
        self._paths = {name: folder / name for name in ("log", "index")}
        self._parent = folder / "parent"
        self._parent.write_bytes(noise(SIZE, 1))
        self._entries = _entries()
        logs.make(self._paths["log"], self._entries)
        found = WriteLog.read(self._paths["log"], SIZE).entries
        with closing(IndexWriter(self._paths["index"])) as writer:
            for second, first in enumerate(range(0, len(found), 25)):
                headers = found.headers[first : first + 25].tobytes()
                writer.note(headers, second * SECOND, (second + 1) * SECOND)
        self._states = self._replayed()
        if thinned:
            found = self._thinned(folder)
        self.sound = {name: path.read_bytes() for name, path in self._paths.items()}
        places = [0, *found.places[:-1].tolist()]
        inside = [place + at for place in places for at in range(64)]
        self.structures = {"log": inside, "index": list(range(len(self.sound["index"])))}

    def _thinned(self, folder: Path) -> Entries:
        """Have every seventh moment of the first half stay; the entries that are left."""
        log = WriteLog.read(self._paths["log"], SIZE, self._paths["index"])
        stay = [0, *log.flushes[: len(log.flushes) // 2 : 7].tolist()[1:]]
        made = [folder / "new", folder / "notes"]
        thinning = Thinning.of(log, stay)
        thinning.write(made[0], made[1], Task())
        assert thinning.is_kept_by(made[0], made[1], Task())
        for new, path in zip(made, self._paths.values(), strict=True):
            new.replace(path)
        return WriteLog.read(self._paths["log"], SIZE, self._paths["index"]).entries

    def _replayed(self) -> list[bytes]:
        """The disk after each write, by replaying one after the other."""
        states = [self._parent.read_bytes()]
        for each in self._entries:
            if each.sectors and not each.flags & 8:
                states.append(logs.replay([each], states[-1]))
        return states

    def tell(self, lies: Iterable[Lie]) -> None:
        """Write the log with these lies, read it, and see that nothing wrong is offered.

        Raises DiskError where it is refused.
        """
        damaged = {name: bytearray(data) for name, data in self.sound.items()}
        for name, at, lie in lies:
            if lie:
                damaged[name][at : at + len(lie)] = lie
            else:
                del damaged[name][at:]
        for name, path in self._paths.items():
            path.write_bytes(damaged[name])
        log = WriteLog.read(self._paths["log"], SIZE, self._paths["index"])
        log.marks()
        assert log.sound_writes <= log.writes
        for write in sorted({0, log.writes // 2, log.writes, *log.flushes[-3:].tolist()}):
            if not log.holds(write):
                continue
            log.time_of(write)
            state = self._state(log, write)
            if log.is_proven(write):
                assert state == self._states[write], f"moment {write} is offered, and wrong"

    def _state(self, log: WriteLog, write: int) -> bytes:
        with Chain([RawDisk.open(self._parent), log.disk(write)]) as chain:
            read = bytearray(chain.size)
            chain.readinto(0, memoryview(read))
            return bytes(read)


def _entries() -> list[Entry]:
    choose, entries = random.Random(2), [mark(b"began")]
    for number in range(120):
        length = choose.randint(1, 8)
        sector = choose.randrange(SECTORS - length)
        discard = number % 9 == 8
        data = b"" if discard else choose.randbytes(512 * length)
        entries.append(Entry(sector, length, 4 if discard else number % 2 * 2, data))
        entries += [Entry(flags=1)] if number % 2 else []
    return entries
