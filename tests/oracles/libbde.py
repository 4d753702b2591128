"""The distribution's libbde, which reads what BitLocker has encrypted."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

_READ = """
import hashlib, sys
import pybde
volume = pybde.volume()
if len(sys.argv[2].split("-")) == 8:
    volume.set_recovery_password(sys.argv[2])
else:
    volume.set_password(sys.argv[2])
volume.open(sys.argv[1])
print(volume.is_locked(), hashlib.sha256(volume.read_buffer(volume.get_size())).hexdigest())
"""


def assert_holds(image: Path, key: str, plain: bytes) -> None:
    """libbde, with the key, reads these bytes from the volume."""
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", _READ, str(image), key],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", hashlib.sha256(plain).hexdigest()]
