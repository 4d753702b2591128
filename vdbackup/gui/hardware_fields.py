"""Fields in which a machine's hardware is chosen; what is left alone is found out."""

from __future__ import annotations

from vdbackup.guest.hardware import Controller
from vdbackup.guest.model import Firmware
from vdbackup.gui import parts
from vdbackup.translation import tr


class ControllerBox(parts.ComboBox):
    """What the disk is attached to."""

    def __init__(self, name: str) -> None:
        super().__init__(name, tr("What the disk is attached to"))
        self.addItem(tr("automatic"), None)
        for each in Controller:
            self.addItem(each.value, each)

    @property
    def chosen(self) -> Controller | None:
        """None for whatever the system needs."""
        data = self.currentData()  # of an enumeration Qt keeps no more than its text
        return Controller(data) if data else None


class FirmwareBox(parts.ComboBox):
    """What the machine is started by."""

    def __init__(self, name: str) -> None:
        super().__init__(name, tr("Firmware"))
        self.addItem(tr("automatic"), None)
        for each in Firmware:
            self.addItem(each.upper(), each)

    @property
    def chosen(self) -> Firmware | None:
        """None for whatever the system needs."""
        data = self.currentData()
        return Firmware(data) if data else None
