"""What NASM makes of the listings that stand as comments beside machine code in our modules."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import ModuleType

_LINE = re.compile(r'\s+"(?:[0-9A-F]{2} ?)*"\s+# (.+)')


def assemble(module: ModuleType, origin: int, folder: Path) -> bytes:
    """The machine code of the listing in `module`'s source, made in `folder`.

    Args:
        origin: the address of the first instruction (NASM's `org`).
    """
    lines = Path(str(module.__file__)).read_text().splitlines()
    instructions = [match[1] for line in lines if (match := _LINE.fullmatch(line))]
    source, binary = folder / "listing.asm", folder / "listing.bin"
    source.write_text("\n".join([f"org {origin}", "bits 16", *instructions, ""]))
    subprocess.run(["nasm", "-f", "bin", "-o", binary, source], check=True)
    return binary.read_bytes()
