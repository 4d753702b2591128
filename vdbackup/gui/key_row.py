"""Where the key of what is encrypted in a point is typed; it is kept as long as that is shown."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QLineEdit, QWidget

from vdbackup.errors import Remedy, VdbackupError, WrongKey
from vdbackup.gui import parts
from vdbackup.translation import tr
from vdbackup.volumes.keys import Keys


class KeyRow(QWidget):
    """Hidden while nothing is locked.

    Signals:
        given(bytes): a passphrase or recovery key, as it was typed.
    """

    given = Signal(bytes)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("keyRow")
        about = tr("Passphrase or recovery key of what is encrypted")
        self.edit = parts.field("keyEdit", about, about)
        self.edit.setEchoMode(QLineEdit.EchoMode.Password)
        self.edit.returnPressed.connect(self._on_given)
        self.button = parts.button(tr("Unlock"), "unlockButton")
        self.button.setEnabled(False)
        self.button.clicked.connect(self._on_given)
        self.edit.textChanged.connect(lambda text: self.button.setEnabled(bool(text)))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.edit, 1)
        row.addWidget(self.button)
        self.setVisible(False)

    def after(self, error: BaseException, keys: Keys) -> Keys:
        """Show itself where a key would help; the keys without one that was wrong."""
        if isinstance(error, WrongKey):
            keys = Keys(keys.of_any[:-1], keys.of_one, keys.opened)
        elif not isinstance(error, VdbackupError) or error.remedy is not Remedy.UNLOCK:
            return keys
        self.setVisible(True)
        return keys

    def _on_given(self) -> None:
        text = self.edit.text()
        if text:
            self.edit.clear()
            self.given.emit(text.encode("utf-8", "surrogatepass"))
