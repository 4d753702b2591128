"""Where what belongs to the application lies, its log among it.

No folder is made when this module is imported. Each can be named by an environment variable:

    VDBACKUP_CONFIG_DIR    settings.json
    VDBACKUP_DATA_DIR      the demo disk; points that the window shows as folders; how far restores
                           have come; VM sessions, unless the settings name another folder
    VDBACKUP_LOG_DIR       vdbackup.log
    VDBACKUP_CACHE_DIR     what can be found out again: the names of the files in points
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import appdirs

from vdbackup import durable
from vdbackup.text import PrintableFormatter

APPLICATION = "vdbackup"
LOG_SIZE = 1 << 20
"""Bytes after which a new log file is begun; one old one is kept."""


@dataclass(frozen=True)
class Locations:
    """The folders that belong to the application; none of them needs to exist.

    Attributes:
        config: holds `settings.json`.
        data: holds what the application makes for itself.
        logs: holds `vdbackup.log`.
        cache: holds what can be found out again.
    """

    config: Path
    data: Path
    logs: Path
    cache: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Locations:
        """Where the system wants them, unless the environment says otherwise."""

        def chosen(variable: str, usual: str) -> Path:
            return Path(environ.get(variable) or usual)

        return cls(
            config=chosen("VDBACKUP_CONFIG_DIR", appdirs.user_config_dir(APPLICATION)),
            data=chosen("VDBACKUP_DATA_DIR", appdirs.user_data_dir(APPLICATION)),
            logs=chosen("VDBACKUP_LOG_DIR", appdirs.user_log_dir(APPLICATION)),
            cache=chosen("VDBACKUP_CACHE_DIR", appdirs.user_cache_dir(APPLICATION)),
        )

    @property
    def settings_file(self) -> Path:
        """The file that `Settings` are kept in."""
        return self.config / "settings.json"

    @property
    def window_lock(self) -> Path:
        """The file that the window holds while it is open."""
        return self.config / "window.lock"

    def window_is_open(self) -> bool:
        """Whether somebody has the window open with these settings."""
        try:
            os.close(durable.hold_lock(os.open(self.window_lock, os.O_RDWR | os.O_CLOEXEC)))
        except BlockingIOError:
            return True
        except OSError:  # none was ever open
            return False
        return False

    def names_file(self, repository_id: str, set_name: str) -> Path:
        """The file that keeps the names of the files in a set's points."""
        return self.cache / "names" / repository_id / f"{set_name}.names"

    @property
    def restores(self) -> Path:
        """The folder in which it is noted how far restores have come."""
        return self.data / "restores"

    @property
    def log_file(self) -> Path:
        """The file that the log is written to."""
        return self.logs / "vdbackup.log"


def start_log(locations: Locations) -> None:
    """Write the log to a file that stays small; to nowhere where that folder cannot be made."""
    handler: logging.Handler = logging.NullHandler()
    with contextlib.suppress(OSError):
        locations.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = _BoundedLog(
            locations.log_file,
            encoding="utf-8",
            errors="backslashreplace",  # names of files need not be text
            delay=True,
        )
    logging.raiseExceptions = False  # a log that cannot be written is no reason to say anything
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _BoundedLog(logging.FileHandler):
    """A log that begins a new file when it has grown enough, and keeps one old one.

    As the standard library's RotatingFileHandler does, whose module brings sockets, queues and
    pickling into every command: 8 ms of the 75 that the shortest takes.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; what is too much by then goes before."""
        try:
            if self.stream is not None and self.stream.tell() >= LOG_SIZE:
                full, self.stream = self.stream, None  # as it is with `delay`
                full.close()
            super().emit(record)
        except OSError:
            self.handleError(record)

    def _open(self) -> TextIOWrapper:
        with contextlib.suppress(OSError):
            if os.stat(self.baseFilename).st_size >= LOG_SIZE:
                os.replace(self.baseFilename, f"{self.baseFilename}.1")
        return super()._open()
