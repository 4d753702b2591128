"""Programs of the user's that are told before file systems are frozen, and when they are thawed.

What survives a power cut needs none: a frozen file system holds what one would have left. For what
does not, executable files in FOLDER are called with "freeze" before and "thaw" after, as QEMU's
guest agent calls its own (qemu-ga, --fsfreeze-hook), so that those can be put here as they are.
They are called in the order of their names, then in the reverse one, for each freeze that may be
the one that counts: a backup has several.

Each runs as the user who owns it, so whoever may write there can do no more than that one.
"""

from __future__ import annotations

import logging
import os
import pwd
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

FOLDER = Path("/etc/vdbackup/freeze.d")
LIMIT = 30.0
"""Seconds that one may take. A program of ours that waits keeps nobody from writing."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOGGED = 4096
"""Bytes of what one says."""


@contextmanager
def told() -> Iterator[list[str]]:
    """Tell all of them, before the block and after it.

    What each of them failed at is in the list by then, a sentence each: then what it looks after
    may not be as it should. Nobody who was told of the freeze is left without word of its end.
    """
    hooks, failed = _hooks()
    called: list[Path] = []
    try:
        for hook in hooks:
            called.append(hook)
            failed += _call(hook, "freeze")
        yield failed
    finally:
        for hook in reversed(called):
            failed += _call(hook, "thaw")


def _hooks() -> tuple[list[Path], list[str]]:
    """Those to be called, and why others are not."""
    try:
        found = sorted(each for each in FOLDER.iterdir() if not each.name.startswith("."))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [_sentence(FOLDER, tr("cannot be listed: {reason}", reason=error.strerror))]
    folder = FOLDER.stat()
    if folder.st_uid not in (0, os.geteuid()) or folder.st_mode & 0o022:
        return [], [
            _sentence(FOLDER, tr("may be changed by others than root: nothing in it is run"))
        ]
    refused = {hook: why for hook in found if (why := _refusal(hook))}
    return (
        [hook for hook in found if hook not in refused],
        [_sentence(hook, why) for hook, why in refused.items()],
    )


def _refusal(hook: Path) -> str:
    """Why it must not be run; "" where it may be."""
    try:
        facts = hook.lstat()
    except OSError as error:
        return tr("cannot be run: {reason}", reason=error.strerror)
    if not stat.S_ISREG(facts.st_mode) or not facts.st_mode & stat.S_IXUSR:
        return tr("is not run: it is no executable file")
    if facts.st_mode & 0o022:
        return tr("is not run: others than its owner may change it")
    if os.geteuid() not in (0, facts.st_uid):
        return tr(
            "is not run: it is {st_uid}'s, and only root runs others' programs",
            st_uid=_name_of(facts.st_uid),
        )
    return ""


def _call(hook: Path, what: str) -> list[str]:
    """Run it; a sentence where it failed."""
    with _place_for_words() as said:
        try:
            code = _run(hook, what, said.fileno())
        except (OSError, LookupError) as error:
            return [_sentence(hook, tr("could not be run: {error}", error=error))]
        said.seek(0)
        log.info("%s %s: %s %r", hook, what, code, said.read(_LOGGED))
    if code is None:
        return [
            _sentence(
                hook,
                tr(
                    'took longer than {limit:g} seconds at "{what}", and was ended',
                    limit=LIMIT,
                    what=what,
                ),
            )
        ]
    return (
        [_sentence(hook, tr('failed at "{what}" (status {code})', what=what, code=code))]
        if code
        else []
    )


def _place_for_words() -> IO[bytes]:
    """Where one may say something; nowhere on a full disk: it is told all the same."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return Path(os.devnull).open("r+b")


def _run(hook: Path, what: str, output: int) -> int | None:
    """Its exit status; None where it took too long."""
    owner = pwd.getpwuid(hook.lstat().st_uid)
    environment = {"PATH": _PATH, "HOME": owner.pw_dir, "USER": owner.pw_name, "LANG": "C.UTF-8"}
    is_root = os.geteuid() == 0
    process = subprocess.Popen(
        [str(hook), what],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        cwd="/", env=environment, start_new_session=True, umask=0o077,
        user=owner.pw_uid if is_root else None,
        group=owner.pw_gid if is_root else None,
        extra_groups=os.getgrouplist(owner.pw_name, owner.pw_gid) if is_root else None,
    )  # fmt: skip
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):  # what it started, and left, is not waited for either
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _name_of(owner: int) -> str:
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return str(owner)


def _sentence(path: Path, what: str) -> str:
    return f"{printable(str(path))} {what}."
