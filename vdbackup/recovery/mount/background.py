"""A point as a folder, shown by a process of its own that stays when its caller ends.

It is told what to show by JSON on its standard input, and answers with one line on its standard
output: what is mounted, or the error. It holds the point's claim; who wants the point back unmounts
the folder (mounting.unmount), wherever that was begun.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vdbackup.errors import NotMounted, VdbackupError, from_os
from vdbackup.processes import environment
from vdbackup.recovery.mount import mounting
from vdbackup.recovery.mount.mounting import Mounted
from vdbackup.repository.repository import Repository
from vdbackup.translation import tr
from vdbackup.volumes.keys import Keys

_PROGRAM = "vdbackup.recovery.mount"


def start(
    repository: Path, set_name: str, point_id: str, where: Path, keys: Keys | None = None
) -> Mounted:
    """Mount a point; returns as soon as the folder shows it. Keys: as of `mounting.mount`.

    Raises:
        UnfitTarget, ProgramMissing: as `mounting.check`. NotMounted: what went wrong over there.
    """
    keys = keys or Keys()
    return _started(
        repository,
        where,
        set=set_name,
        point=point_id,
        keys=[secret.hex() for secret in keys.of_any],
        keys_of_one=[(name, secret.hex()) for name, secret in keys.of_one],
    )


def start_disk(repository: Path, set_name: str, point_id: str, where: Path) -> Mounted:
    """The same with the whole disk as the only file in the folder (`mounting.mount_disk`)."""
    return _started(repository, where, set=set_name, point=point_id, disk=True)


def _started(repository: Path, where: Path, **what: Any) -> Mounted:
    mounting.check(where)
    places = {"repository": str(repository.absolute()), "where": str(where.absolute())}
    request = {**places, **what}
    # in memory, since a key that once was on a disk may be found there
    with open(os.memfd_create("request", os.MFD_CLOEXEC), "w+b") as requests:
        requests.write(json.dumps(request).encode())
        requests.seek(0)
        reading, writing = os.pipe()
        with open(reading, "rb") as answers:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", _PROGRAM],
                    stdin=requests, stdout=writing, stderr=subprocess.DEVNULL,
                    cwd="/", env=environment(), start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(writing)
            answer = answers.readline()
    process.wait()  # it has begun another one, which is nobody's child
    if not answer:
        raise NotMounted(
            tr("{where} was not mounted: the process for it has ended.", where=where),
            tr("Try again; show it in the foreground to see what is said."),
        )
    return _understood(json.loads(answer))


def _understood(answer: dict[str, Any]) -> Mounted:
    if "title" in answer:
        raise NotMounted(answer["title"], answer["advice"])
    return Mounted(
        Path(answer["where"]),
        answer["point"],
        tuple(answer["volumes"]),
        tuple(answer["warnings"]),
    )


def main() -> int:
    """Show what standard input asks for, until it is unmounted."""
    request = json.load(sys.stdin)
    # what was asked, keys among it, is let go of: this process may be there for days
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    if os.fork():  # whoever started us waits for this process alone
        return 0

    def answer(found: Mounted) -> None:
        _say({**asdict(found), "where": str(found.where)})

    try:
        repository = Repository.open(Path(request["repository"]))
        where = Path(request["where"])
        point = repository, request["set"], request["point"]
        if request.get("disk"):
            mounting.mount_disk(*point, where, answer)
            return 0
        keys = Keys(
            tuple(bytes.fromhex(each) for each in request["keys"]),
            tuple((name, bytes.fromhex(each)) for name, each in request["keys_of_one"]),
        )
        mounting.mount(*point, where, answer, keys)
    except (VdbackupError, OSError) as error:
        known = from_os(error) if isinstance(error, OSError) else error
        _say({"title": known.title, "advice": known.advice})
        return 1
    return 0


def _say(answer: dict[str, Any]) -> None:
    """Once: afterwards nobody may listen any more."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")
