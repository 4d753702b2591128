"""The settings while the window is open: one value, and who wants to know when it changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from PySide6.QtCore import QObject, Signal

from vdbackup.errors import VdbackupError, from_os
from vdbackup.locations import Locations
from vdbackup.operations.machines import Machines
from vdbackup.operations.schedules.store import Store as Schedules
from vdbackup.settings import Settings

log = logging.getLogger(__name__)


class Store(QObject):
    """Holds the settings and writes them down at each change.

    A change is made to what the file says at that moment: another window, or a command, may have
    written it since.

    Attributes:
        locations: the folders of the application.
        value: the settings as they are now.

    Signals:
        changed(): after each change.
        failed(VdbackupError): a change holds for this run only, as it could not be written down.
    """

    changed = Signal()
    failed = Signal(object)

    def __init__(
        self, settings: Settings, locations: Locations, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.locations = locations
        self.value = settings

    @property
    def schedules(self) -> Schedules:
        """Where this user's schedules are kept."""
        return Schedules.within(self.locations.config, self.locations.data)

    @property
    def machines(self) -> Machines:
        """What this user lets every machine have."""
        return Machines(self.value.sessions(self.locations), self.value.memory_mib or None)

    def update(self, change: Callable[[Settings], Settings]) -> None:
        """Make other settings of what they are now, and write them down."""
        file = self.locations.settings_file
        if not file.exists() and change(self.value) == self.value:
            return  # nothing is remembered before there is something to remember
        try:
            self._take(Settings.update(file, change, self.value))
        except (VdbackupError, OSError) as error:
            log.warning("settings", exc_info=True)
            self._take(change(self.value))
            self.failed.emit(from_os(error) if isinstance(error, OSError) else error)

    def change(self, **fields: Any) -> None:
        """Change single fields."""
        self.update(lambda settings: replace(settings, **fields))

    def reload(self) -> None:
        """Take what somebody else may have written."""
        self.update(lambda settings: settings)

    def _take(self, settings: Settings) -> None:
        if settings != self.value:
            self.value = settings
            self.changed.emit()
