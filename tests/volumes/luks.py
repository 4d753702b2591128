"""Volumes as LUKS encrypts them, written by cryptsetup and by QEMU, without device-mapper."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.volumes import volumes
from tests.volumes.volumes import MIB

_HEADER = 16 * MIB
"""Of LUKS2; half of what cryptsetup wants to be free behind a volume that it encrypts in place."""


def luks2(plain: Path, image: Path, key: bytes, *options: str) -> None:
    """An encrypted copy of a volume, by cryptsetup, which encrypts it in place."""
    image.write_bytes(plain.read_bytes())
    os.truncate(image, plain.stat().st_size + 2 * _HEADER)
    with_key = _key_file(image, key)
    volumes.run(
        "cryptsetup", "reencrypt", "--encrypt", "--type", "luks2", "--batch-mode",
        "--disable-locks",  # their folder is whose first started it
        "--force-offline-reencrypt", "--reduce-device-size", str(2 * _HEADER),
        "--key-file", with_key, *options, image,
    )  # fmt: skip


ARGON = (
    "--pbkdf", "argon2id", "--pbkdf-memory", "32768", "--pbkdf-force-iterations", "4",
    "--pbkdf-parallel", "1", "--sector-size", "4096",
)  # fmt: skip
"""As cryptsetup does by itself, with less to compute."""
PBKDF2 = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "512")


def luks1(plain: Path, image: Path, key: bytes) -> None:
    """The same in the older format, by QEMU.

    QEMU measures first how fast it can hash, and on a busy computer now and then it cannot
    ("Unable to get accurate CPU usage", crypto/pbkdf.c of 7.2).
    """
    command = (
        "qemu-img", "convert", "-f", "raw", "-O", "luks",
        "--object", f"secret,id=key,file={_key_file(image, key)}",
        "-o", "key-secret=key,iter-time=10", str(plain), str(image),
    )  # fmt: skip
    for _ in range(9):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr


def _key_file(image: Path, key: bytes) -> Path:
    file = image.with_suffix(".key")
    file.write_bytes(key)
    return file
