"""Boot a point with other hardware than is chosen automatically, or with another point's disk."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QCheckBox, QFormLayout, QWidget

from vdbackup.guest.hardware import HardwareRequest
from vdbackup.gui import parts, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.hardware_fields import ControllerBox, FirmwareBox
from vdbackup.recovery.sessions.attached import Attachment
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import WrittenPoint
from vdbackup.translation import tr

WIDTH = 460  # pixels


class BootDialog(parts.Dialog):
    """Asks which hardware this one machine gets; what is left alone is found out.

    Attributes:
        controller, firmware, memory, network, every_write: the fields.
        second_disk, second_point: which other source's disk it gets, and of which of its points.
    """

    def __init__(
        self,
        point: RecoveryPoint,
        memory_mib: int,
        others: Sequence[Entry],
        parent: QWidget,
    ) -> None:
        title = tr("Boot {point}", point=words.point_title(point))
        super().__init__("bootDialog", title, WIDTH, parent)
        self.column.addWidget(parts.label(title, "heading"))
        about = tr(
            "For this machine alone. What is “automatic” is chosen by what its system needs."
        )
        self.column.addWidget(parts.label(about, "muted"))
        self.controller = ControllerBox("bootController")
        self.firmware = FirmwareBox("bootFirmware")
        self.memory = parts.SpinBox("bootMemory", tr("Memory of the virtual machine"))
        self.memory.setRange(0, 1 << 20)
        self.memory.setSuffix(tr(" MiB"))
        self.memory.setSpecialValueText(tr("what the system needs"))
        self.memory.setSingleStep(256)
        self.memory.setValue(memory_mib)
        self.network = QCheckBox(tr("Let it reach out to the network"))
        self.network.setToolTip(parts.hint(tr("Nothing of the network reaches the machine.")))
        self.every_write = QCheckBox(tr("Keep every write"))
        self.every_write.setObjectName("bootEveryWrite")
        self.every_write.setToolTip(
            parts.hint(
                tr("You can go back to any moment of the machine then, until you forget it.")
            )
        )
        self.every_write.setDisabled(isinstance(point, WrittenPoint))
        self.second_disk = parts.ComboBox("bootSecondDisk", tr("Second disk"))
        self.second_disk.setToolTip(
            parts.hint(
                tr(
                    "Chosen files, for example: the machine reads them from its second disk. What "
                    "it writes there does not reach the backup."
                )
            )
        )
        self.second_disk.addItem(tr("none"), None)
        for each in others:
            self.second_disk.addItem(each.title, each)
        self.second_point = parts.ComboBox("bootSecondPoint", tr("Point of the second disk"))
        self.second_disk.currentIndexChanged.connect(self._on_second_disk)
        self._on_second_disk()
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        form.addRow(tr("Disk on"), self.controller)
        form.addRow(tr("Firmware"), self.firmware)
        form.addRow(tr("Memory"), self.memory)
        form.addRow(tr("Second disk"), self.second_disk)
        form.addRow("", self.second_point)
        form.addRow("", self.network)
        form.addRow("", self.every_write)
        self.column.addLayout(form)
        boot = parts.button(tr("Boot"), "bootAccept", "primary")
        boot.clicked.connect(self.accept)
        self.add_buttons(boot)

    def _on_second_disk(self, _index: int = 0) -> None:
        """Offer the points of the source that was chosen, the newest first."""
        self.second_point.clear()
        entry = self.second_disk.currentData()
        for each in reversed(entry.points if isinstance(entry, Entry) else ()):
            self.second_point.addItem(words.point_title(each), each.id)
        self.second_point.setVisible(self.second_point.count() > 0)

    @property
    def attach(self) -> tuple[Attachment, ...]:
        """The point whose disk it gets beside its own, if one was chosen."""
        entry = self.second_disk.currentData()
        if not isinstance(entry, Entry):
            return ()
        return (Attachment(entry.repository, entry.name, self.second_point.currentData()),)

    @property
    def request(self) -> HardwareRequest:
        """What the user wants."""
        return HardwareRequest(
            controller=self.controller.chosen,
            firmware=self.firmware.chosen,
            memory_mib=self.memory.value() or None,
            network=self.network.isChecked(),
        )
