"""Where to restore a recovery point to."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PySide6.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QWidget,
)

from vdbackup.disks.names import BACKUP_FORMATS, DiskFormat
from vdbackup.gui import parts, words
from vdbackup.gui.catalogue import Entry
from vdbackup.gui.disk_picker import DiskPicker
from vdbackup.gui.jobs import restoring
from vdbackup.gui.jobs.worker import Worker
from vdbackup.gui.restore_choices import RestoreChoices
from vdbackup.jobs import Job
from vdbackup.recovery.packages import PACKAGES
from vdbackup.repository.model import RecoveryPoint
from vdbackup.sources.inventory import Content
from vdbackup.text import printable
from vdbackup.translation import tr


class RestoreDialog(RestoreChoices):
    """Asks for a file or a device.

    Attributes:
        picker: the disks of this computer.
        parts_box: the whole disk, or which partition of it.
        target_edit, format_box, and the boxes to tick: what the user chose.
        accept_button: enabled when a target is given.
    """

    def __init__(
        self, entry: Entry, point: RecoveryPoint, reader: Worker, parent: QWidget | None = None
    ) -> None:
        title = tr("Restore recovery point {point}", point=words.point_name(point))
        super().__init__("restoreDialog", title, 640, parent)
        self._picked: Path | None = None
        self._sizes = {0: point.virtual_size}
        self.column.addWidget(parts.label(title, "heading"))
        sentence = tr(
            "Writes the disk of {size}, as it was {created}, and checks each block on its way.",
            size=words.size(point.virtual_size),
            created=words.when(point.created),
        )
        self.column.addWidget(parts.label(sentence, "muted"))
        self.parts_box = parts.ComboBox("partsBox", tr("What of the disk is restored"))
        self.parts_box.addItem(tr("The whole disk, {size}", size=words.size(point.virtual_size)), 0)
        self.picker = DiskPicker()
        self.picker.chosen.connect(self._on_disk_chosen)
        self.picker.gone.connect(self._on_disk_gone)
        self.target_edit = parts.field(
            "targetEdit",
            tr("A new file, or a device such as /dev/sdX"),
            tr("File or device to restore to"),
        )
        choose = parts.button(tr("Choose a file…"), "chooseTargetButton")
        choose.clicked.connect(self._on_choose_clicked)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.target_edit, 1)
        row.addWidget(choose)
        self.format_box = parts.ComboBox("formatBox", tr("Format of a file"))
        self.format_box.addItem(tr("Raw image"), DiskFormat.RAW.value)
        for each in BACKUP_FORMATS:
            self.format_box.addItem(
                tr("{which}, a stand-alone virtual disk", which=each.upper()), each.value
            )
        for name, package in PACKAGES.items():
            self.format_box.addItem(package.words, str(name))
        self.resize_box = QCheckBox(tr("Fit the partitions to a disk of another size"))
        self.resize_box.setObjectName("resizeBox")
        self.resize_box.setToolTip(
            parts.hint(
                tr(
                    "One partition takes what a larger disk has more; for a smaller one, file "
                    "systems are made smaller. The backup stays as it is."
                )
            )
        )
        self.delta_box = QCheckBox(tr("Write only what differs from what is there"))
        self.delta_box.setObjectName("deltaBox")
        self.delta_box.setToolTip(
            parts.hint(
                tr(
                    "For a device, or a raw image, that holds an older or a damaged state. It is "
                    "read and compared first."
                )
            )
        )
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(10)
        form.addRow(tr("Restore"), self.parts_box)
        form.addRow(tr("To a disk"), self.picker)
        form.addRow(tr("Or to a file"), row)
        form.addRow(tr("Format of a file"), self.format_box)
        form.addRow("", self.overwrite_box)
        form.addRow("", self.resize_box)
        form.addRow("", self.delta_box)
        form.addRow("", self.damage_box)
        self.column.addLayout(form)
        self.accept_button = parts.button(tr("Continue"), "restoreAccept", "primary")
        self.accept_button.setEnabled(False)
        self.accept_button.clicked.connect(self.accept)
        self.add_buttons(self.accept_button)
        self.target_edit.textChanged.connect(self._on_text_changed)
        self._look(entry, point, reader)

    def _look(self, entry: Entry, point: RecoveryPoint, reader: Worker) -> None:
        """Look what can be restored, and where to; both are shown when they are known."""

        def look_again() -> None:
            number = int(self.parts_box.currentData())
            needed = 0 if self.fits_size else self._sizes[number]
            self.resize_box.setEnabled(not number)
            self.picker.look(
                reader, partial(restoring.targets, entry.repository, entry.name, needed)
            )

        job = Job(
            tr("List partitions"),
            partial(restoring.parts_of, entry.repository, entry.name, point.id),
        )
        reader.submit(job, self._on_parts_known)
        look_again()
        self.parts_box.currentIndexChanged.connect(look_again)
        self.resize_box.toggled.connect(look_again)

    def _on_parts_known(self, job: Job[tuple[Content, ...]]) -> None:
        for part in job.result or ():
            if part.number:
                called = part.words
                self._sizes[part.number] = part.size
                self.parts_box.addItem(printable(called[:1].upper() + called[1:]), part.number)

    @property
    def delta(self) -> bool:
        """Whether what is there is compared first, and only what differs written."""
        return self.delta_box.isChecked()

    @property
    def fits_size(self) -> bool:
        """Whether the whole disk is fitted to one of another size."""
        return self.resize_box.isChecked() and not self.partitions

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partition that is wanted alone; none for the whole disk."""
        number = int(self.parts_box.currentData())
        return (number,) if number else ()

    def _on_choose_clicked(self) -> None:
        images = " ".join(f"*.{ending}" for ending in ("img", "raw", "ova", *BACKUP_FORMATS))
        filters = [tr("Disk images ({images})", images=images), tr("All files (*)")]
        parts.choose_file(self, tr("Restore to"), self.target_edit, filters, new=True)

    def _on_disk_chosen(self, path: Path) -> None:
        """Whoever chooses a disk here has seen what lies on it, and is asked once more."""
        self._picked = path
        self.target_edit.setText(str(path))
        self.overwrite_box.setChecked(True)

    def _on_disk_gone(self) -> None:
        """Another one may have its name by now: nobody has chosen that."""
        if self._picked is not None:
            self.target_edit.clear()

    def _on_text_changed(self, text: str) -> None:
        if self._picked is not None and text != str(self._picked):
            self._picked = None
            self.picker.clearSelection()
            self.overwrite_box.setChecked(False)  # that was said of the disk
        self.accept_button.setEnabled(bool(text.strip()))
        self.format_box.setEnabled(self._picked is None)
        ending = Path(text.strip()).suffix.lower().removeprefix(".")
        package = PACKAGES.get(self.disk_format)
        named = self.format_box.findData(ending)
        if named >= 0 and (package is None or package.ending != ending):
            self.format_box.setCurrentIndex(named)  # who writes ".qcow2" means it
