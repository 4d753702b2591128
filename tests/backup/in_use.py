"""Programs that write to a mounted file system as hard as they can, and what they promise of it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

WRITER = """
import mmap, os, random, sqlite3, sys, time
folder, mode, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
base = sqlite3.connect(f"{folder}/{mode}.db", isolation_level=None)
base.execute(f"pragma journal_mode={mode}")
base.execute("pragma synchronous=normal")
base.execute("create table if not exists rows(number integer primary key, data)")
base.execute("create table if not exists counter(rows)")
base.execute("insert into counter values (0)")
size = 1 << 20
mapped = open(f"{folder}/{mode}.mapped", "w+b")
mapped.truncate(size)
memory = mmap.mmap(mapped.fileno(), size)
number = 0
print("writes", flush=True)
while True:
    number += 1
    with open(f"{folder}/{mode}{number % 40}", "wb") as file:
        file.write(os.urandom(random.randrange(1, 150_000)))
        if number % 7 == 0:
            os.fsync(file.fileno())
    if number % 11 == 0:
        os.rename(file.name, f"{folder}/{mode} renamed")
    if number % 5 == 0:
        base.execute("begin")
        base.execute("insert into rows(data) values (?)", (os.urandom(900),))
        base.execute("update counter set rows = rows + 1")
        base.execute("commit")
    place = random.randrange(size - 8)
    memory[place : place + 8] = number.to_bytes(8, "little")
    time.sleep(pause)
"""
MODES = ("delete", "wal")
"""SQLite's journals: the old pages beside the file, or the new ones."""


@contextmanager
def written_to(folder: Path, pause: float = 0.0) -> Iterator[None]:
    """Two programs that write there: files, a database with each journal, mapped memory.

    Args:
        folder: on the file system.
        pause: seconds between two steps of each.
    """
    with ExitStack() as stack:
        for mode in MODES:
            command = [sys.executable, "-c", WRITER, str(folder), mode, str(pause)]
            writer = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(writer.kill)
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writes\n"
        yield


def assert_databases_are_whole(folder: Path) -> None:
    """What SQLite itself says of them, and that each transaction is there wholly or not at all."""
    for mode in MODES:
        with closing(sqlite3.connect(folder / f"{mode}.db")) as base:
            assert base.execute("pragma integrity_check").fetchall() == [("ok",)]
            rows = base.execute("select count(*) from rows").fetchone()
            assert base.execute("select rows from counter").fetchone() == rows
