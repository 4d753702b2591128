"""Puts the man page and the shells' completions into what is built: hatchling calls this."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TerminalFiles(BuildHookInterface):
    """Makes them in a folder that is gone when the build is done."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files for the wheel, an editable one among them."""
        sys.path[:0] = [self.root, str(Path(self.root, "packaging"))]
        from vdbackup import translation

        translation.english()  # whatever language who builds it reads
        import terminal

        self._folder = tempfile.TemporaryDirectory(prefix="vdbackup-build-")
        share = Path(self._folder.name)
        build_data["shared_data"] |= {
            str(file): f"share/{file.relative_to(share)}" for file in terminal.write(share).values()
        }

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Put the folder away."""
        self._folder.cleanup()
