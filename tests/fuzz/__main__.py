"""Fuzzes the parsers of disk formats, and of logs: `python -m tests.fuzz TARGET [--seconds N]`.

libFuzzer, through atheris (`pip install -e .[fuzz]`), writes lies into the structures of a sound
disk. Whatever it writes, the disk is read or refused by a DiskError; any other error, a hang, or
memory out of proportion ends the run with the input that did it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vdbackup.disks"]):
    from vdbackup.disks.chain import Chain
    from vdbackup.disks.formats import open_disk

from tests.disks.write_log import lies
from tests.fuzz.targets import TARGETS, Target
from vdbackup.disks.disk import UNIT
from vdbackup.errors import DiskError

PAGE = 512
LIES = 6
LIMITS = ["-timeout=20", "-rss_limit_mb=0", "-max_len=128", "-verbosity=0"]
MEMORY = 3 << 30
"""Bytes; beyond it MemoryError ends the run. libFuzzer itself takes 2 MB more each second."""


class Fuzzer:
    """One disk, and what became of the lies that were told of it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sound = target.disk.read_bytes()
        self._damaged = target.disk.with_name("damaged")
        self._pages = self._structures()
        self.refused = self.opened = self.written = 0

    def _structures(self) -> list[int]:
        """Where pages lie that hold neither zeros nor the guest's data."""
        disk = open_disk(self._target.disk, self._target.disk_format)
        own = disk.block_map()
        disk.close()
        data = own.layers >= 0
        guests = [
            (host, host + length)
            for host, length in zip(own.hosts[data], own.lengths[data], strict=True)
        ]
        return [
            at
            for at in range(0, len(self._sound), PAGE)
            if any(self._sound[at : at + PAGE])
            and not any(start <= at < end for start, end in guests)
        ]

    def one(self, data: bytes) -> None:
        """What libFuzzer calls, with the bytes that it chose."""
        draw = atheris.FuzzedDataProvider(data)
        sealed, cut = draw.ConsumeBool(), draw.ConsumeIntInRange(0, 15) == 15
        damaged = bytearray(self._sound)
        for offset, lie in self._lies(draw):
            damaged[offset : offset + len(lie)] = lie
        if cut:
            del damaged[draw.ConsumeIntInRange(0, len(damaged)) :]
        if sealed:
            self._target.seal(damaged)
        self._write(damaged)
        try:
            self._read()
            self.opened += 1
            self._change()
            self.written += 1
        except DiskError as error:
            self.refused += 1
            if not error.title:
                raise AssertionError("a refusal without a sentence") from error

    def _lies(self, draw: atheris.FuzzedDataProvider) -> Iterator[tuple[int, bytes]]:
        for _ in range(draw.ConsumeIntInRange(1, LIES)):
            page = self._pages[draw.ConsumeIntInRange(0, len(self._pages) - 1)]
            offset = page + draw.ConsumeIntInRange(0, PAGE - 1)
            length = draw.PickValueInList([1, 2, 4, 8, 8, 16])
            order = draw.PickValueInList(["little", "big"])
            if draw.ConsumeBool():  # a number near some power of two
                number = (1 << draw.ConsumeIntInRange(0, 8 * length)) - draw.ConsumeBool()
                lie = (number % (1 << 8 * length)).to_bytes(length, order)
            else:
                lie = draw.ConsumeBytes(length)
            yield offset, lie[: len(self._sound) - offset]

    def _write(self, data: bytearray) -> None:
        with self._damaged.open("wb") as file:  # holes stay holes: some files are mostly that
            for at in range(0, len(data), UNIT):
                part = data[at : at + UNIT]
                if part.count(0) < len(part):
                    file.seek(at)
                    file.write(part)
            file.truncate(len(data))

    def _read(self) -> None:
        with Chain.open(self._damaged, self._target.disk_format) as chain:
            for offset in {0, UNIT, 2 * UNIT, chain.size // 2, max(0, chain.size - UNIT)}:
                if offset < chain.size:
                    length = min(UNIT, chain.size - offset)
                    chain.readinto(offset, memoryview(bytearray(length)))

    def _change(self) -> None:
        disk = open_disk(self._damaged, self._target.disk_format, writable=True)
        try:
            disk.write(0, memoryview(bytes(min(UNIT, disk.info.virtual_size))))
            disk.flush()
            if disk.info.parent:
                disk.relink(disk.info.parent)
        finally:
            disk.close()


class LogFuzzer:
    """A log of writes with its notes; what is offered of it has to be right, too."""

    def __init__(self, folder: Path, *, thinned: bool) -> None:
        self._subject = lies.Subject(folder, thinned=thinned)
        self.refused = self.opened = self.written = 0

    def one(self, data: bytes) -> None:
        """What libFuzzer calls, with the bytes that it chose."""
        draw = atheris.FuzzedDataProvider(data)
        try:
            self._subject.tell(self._lies(draw))
            self.opened += 1
        except DiskError as error:
            self.refused += 1
            if not error.title:
                raise AssertionError("a refusal without a sentence") from error

    def _lies(self, draw: atheris.FuzzedDataProvider) -> Iterator[lies.Lie]:
        for _ in range(draw.ConsumeIntInRange(1, LIES)):
            name = draw.PickValueInList(["log", "index"])
            places = self._subject.structures[name]
            place = places[draw.ConsumeIntInRange(0, len(places) - 1)]
            if draw.ConsumeIntInRange(0, 15) == 15:
                yield name, draw.ConsumeIntInRange(0, len(self._subject.sound[name])), b""
            elif draw.ConsumeBool():  # a number near some power of two
                number = (1 << draw.ConsumeIntInRange(0, 64)) - draw.ConsumeBool()
                yield name, place, (number % (1 << 64)).to_bytes(8, "little")
            else:
                yield name, place, draw.ConsumeBytes(draw.PickValueInList([1, 2, 4, 8])) or b"\0"


LOGS = {"write-log": False, "write-log-thinned": True}
"""Whether each was thinned."""


def main() -> None:
    """Fuzz one target for a while, and print how many lies came to what."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=[*TARGETS, *LOGS])
    parser.add_argument("--seconds", type=int, default=60)
    options, rest = parser.parse_known_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory(prog := "vdbackup-fuzz-", dir=_memory()) as folder:
        fuzzer = (
            LogFuzzer(Path(folder), thinned=LOGS[options.target])
            if options.target in LOGS
            else Fuzzer(TARGETS[options.target](Path(folder)))
        )
        started = time.monotonic()

        def one(data: bytes) -> None:
            fuzzer.one(data)
            tried = fuzzer.opened + fuzzer.refused
            if tried % 5000 == 0 or time.monotonic() - started > options.seconds - 1:
                print(
                    f"{options.target}: {tried} lies, {fuzzer.refused} refused, "
                    f"{fuzzer.written} written to, {time.monotonic() - started:.0f} s",
                    file=sys.stderr,
                )

        limits = [*LIMITS, f"-max_total_time={options.seconds}"]
        atheris.Setup([prog, *limits, *rest], one)
        atheris.Fuzz()


def _memory() -> str | None:
    """A folder in memory, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    main()
