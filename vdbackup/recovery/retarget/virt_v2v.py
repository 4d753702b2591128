"""virt-v2v, if it is installed and asked for: another program changes the scratch disk.

virt-v2v-in-place makes a guest of another hypervisor ready for virtio, by the guest's own programs
(dracut, update-initramfs, grub-mkconfig) in a small virtual machine of libguestfs. It knows systems
that we do not edit. See virt-v2v-in-place(1), and for libguestfs' variables guestfs(3).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vdbackup.disks.chain import Chain
from vdbackup.errors import NotRetargeted, ProgramMissing
from vdbackup.jobs import CancelToken, Task
from vdbackup.qemu import accelerator, concatenation, qemu
from vdbackup.qemu.gathering import gathered
from vdbackup.text import printable
from vdbackup.translation import tr

log = logging.getLogger(__name__)

VIRT_V2V = "virt-v2v"
"""The wish, and Debian's package."""
PROGRAM = "virt-v2v-in-place"
_PROGRAMS = (PROGRAM, "nbdkit", "qemu-nbd")
_ADVICE = tr("Install it with: sudo apt install virt-v2v nbdkit qemu-utils")
_ELSE = tr("The overlay is as it was. Retarget without virt-v2v, or choose hardware that fits.")
_NOTE = tr(
    "virt-v2v has changed the system and kept the disk's identity. Only those files are "
    "compared and named here that decide how it boots."
)
_PHASE = "virt-v2v"
_TIME_LIMIT = 3600.0
"""Seconds; measured without KVM: 160 by itself, 415 on a busy computer."""
_GRACE = 60.0
"""Seconds in which it may put its own things away."""
_POLL = 0.1
_MAX_SAID = 1 << 20


def check_installed() -> None:
    """Raise RecoveryError where a program is missing: nothing is installed automatically."""
    for program in _PROGRAMS:
        if shutil.which(program) is None:
            raise ProgramMissing(
                tr(
                    "virt-v2v cannot change this recovery point: {program} is not installed.",
                    program=program,
                ),
                _ADVICE,
            )


@contextmanager
def converted(chain: Chain, task: Task) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A scratch disk (qcow2) above a chain on which virt-v2v has worked; gone afterwards.

    Whatever the chain's format it lies on a map of it: QEMU then follows no link that a file holds.
    With it comes what a report has to note: a sentence each, virt-v2v's own ones among them.

    Raises:
        RecoveryError: virt-v2v failed: with what it says.
        Cancelled: by `cancel`.
    """
    with tempfile.TemporaryDirectory(prefix="vdbackup-", dir="/var/tmp") as own:  # some 100 MiB
        folder = Path(own)
        files = gathered(folder, chain)
        backing = qemu.Backing.of_map(concatenation.build(folder, files.flat, files.paths))
        scratch = folder / "scratch.qcow2"
        qemu.create_session_disk(scratch, backing, chain.size)
        task.phase(_PHASE, 0, 1)
        notes = _convert(scratch, folder, task.cancel)
        task.phase(_PHASE, 1, 1)
        yield scratch, (_NOTE, *notes)


def _convert(scratch: Path, folder: Path, cancel: CancelToken) -> list[str]:
    """Do it; what is to be noted."""
    messages, output = folder / "said", folder / "output"
    command = [
        *("setpriv", "--pdeathsig", "TERM"),  # it ends with us, also where we are killed
        *(PROGRAM, f"--machine-readable=file:{messages}"),
        *("-i", "disk", "-if", "qcow2", str(scratch)),
    ]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(folder),
            start_new_session=True,
        )
    deadline = time.monotonic() + _TIME_LIMIT
    try:
        while process.poll() is None and time.monotonic() < deadline:
            cancel.check()
            time.sleep(_POLL)
    finally:
        _end(process)
    if process.returncode:
        log.info("%s: %s", PROGRAM, output.read_text(errors="replace")[-4000:])
        errors = [*_messages(messages, "error"), tr("it ended and did not say why")]
        raise NotRetargeted(
            tr("The overlay could not be retargeted by virt-v2v: {error}.", error=errors[0]), _ELSE
        )
    return [
        tr("virt-v2v says: {text}.", text=text) for text in _messages(messages, "warning", "info")
    ]


def _environment(folder: Path) -> dict[str, str]:
    """So that libguestfs starts QEMU itself, without libvirt, and without a KVM that runs none."""
    settings = {"LC_ALL": "C", "TMPDIR": str(folder), "LIBGUESTFS_BACKEND": "direct"}
    if accelerator.choose().accelerator is qemu.Accelerator.TCG:
        settings["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    return os.environ | settings


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with all that it started: it has a QEMU and a qemu-nbd of its own."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _messages(messages: Path, *kinds: str) -> Iterator[str]:
    """What it said of that kind: a JSON object in each line."""
    text = messages.read_text(errors="replace")[:_MAX_SAID] if messages.exists() else ""
    for line in text.splitlines():
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict) and message.get("type") in kinds:
                yield printable(str(message.get("message"))[:500].rstrip("."))
