"""The settings while the window is open: one value, and who wants to know when it changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PySide6.QtCore import QObject, Signal

from vdbackup.settings import Locations, Settings


class Store(QObject):
    """Holds the settings and writes them down at each change.

    Attributes:
        locations: the folders of the application.
        value: the settings as they are now.

    Signals:
        changed(): after each change.
    """

    changed = Signal()

    def __init__(
        self, settings: Settings, locations: Locations, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.locations = locations
        self.value = settings

    def put(self, settings: Settings) -> None:
        """Take and write other settings."""
        if settings == self.value:
            return
        self.value = settings
        settings.save(self.locations.settings_file)
        self.changed.emit()

    def change(self, **fields: Any) -> None:
        """Change single fields."""
        self.put(replace(self.value, **fields))
