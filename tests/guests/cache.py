"""Where built guests are kept, and the programs that build them.

The cache lies in the user's real home: the tests' own home is emptied. The variable
VDBACKUP_TEST_CACHE names another folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class NotBuilt(Exception):
    """The guest could not be built; says what to do."""


def folder() -> Path:
    """The cache; not made yet, perhaps."""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    return Path(os.environ.get("VDBACKUP_TEST_CACHE") or home / ".cache" / "vdbackup-tests")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Tests run in several processes: one builds, the others wait and find it built."""
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def recipe(*parts: bytes) -> str:
    """What names a guest in the cache besides its parts: a digest of what it is built by."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def run(
    *command: str | Path,
    folder: Path | None = None,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program, also one that Debian keeps from ordinary users' PATH; returns its output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ
        | {"LC_ALL": "C", "PATH": path(), "MTOOLS_SKIP_CHECK": "1"}
        | dict(environment or {}),
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotBuilt(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def path() -> str:
    """The PATH on which `run` finds programs."""
    return os.environ["PATH"] + ":/usr/sbin:/sbin"
