"""The main window: puts the parts together and lets them hear of each other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PySide6.QtCore import QEvent, Qt, QTimer, Slot
from PySide6.QtGui import QCloseEvent, QGuiApplication
from PySide6.QtWidgets import (
    QApplication,
    QDialog,
    QHBoxLayout,
    QMainWindow,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from vdbackup.gui import desktop, icons, parts, theme
from vdbackup.gui.actions import ACTIONS, Actions
from vdbackup.gui.alerts import Alerts
from vdbackup.gui.awake import Awake
from vdbackup.gui.backups import Backups
from vdbackup.gui.battery import Battery, Resting
from vdbackup.gui.catalogue import Catalogue, Entry
from vdbackup.gui.details import PointDetails
from vdbackup.gui.dialogs import Dialogs
from vdbackup.gui.drops import Drops
from vdbackup.gui.ending import Ending, Leaving
from vdbackup.gui.first_run import FirstRunPage
from vdbackup.gui.help_dialogs import AboutDialog, ManualDialog, ShortcutsDialog
from vdbackup.gui.history_dialog import HistoryDialog
from vdbackup.gui.jobs.history import History
from vdbackup.gui.jobs.panel import JobsPanel
from vdbackup.gui.jobs.worker import Workers
from vdbackup.gui.kept_logs import KeptLogs
from vdbackup.gui.launcher import Launcher
from vdbackup.gui.machine_actions import of_machine
from vdbackup.gui.machines.machine_facts import MachineFacts
from vdbackup.gui.machines.sessions import Sessions
from vdbackup.gui.machines.sessions_list import SessionsList
from vdbackup.gui.menus import MenuBar
from vdbackup.gui.needs import Chosen
from vdbackup.gui.operations import Operations
from vdbackup.gui.plugging import Plugging
from vdbackup.gui.rescue import Rescue
from vdbackup.gui.runner import Runner
from vdbackup.gui.source_dialog import SourceDialog
from vdbackup.gui.sources_list import SourcesList
from vdbackup.gui.store import Store
from vdbackup.gui.timeline.panel import TimelinePanel
from vdbackup.gui.toolbar import ToolBar
from vdbackup.gui.tray import Tray
from vdbackup.operations.changed import ANY, NOTHING
from vdbackup.repository.model import RecoveryPoint
from vdbackup.repository.written import point_of
from vdbackup.settings import WindowState
from vdbackup.translation import tr

MINUTE = 60_000  # milliseconds
SETS = (
    "changeChoice",
    "chooseSchedule",
    "choosePolicy",
    "protectSource",
    "forgetSource",
    "leaveRepository",
)
"""What the page about a source offers."""


class MainWindow(QMainWindow):
    """Sources, timeline, details, jobs.

    Attributes:
        store: the settings.
        workers: the threads that jobs run on.
        catalogue: what there is.
        backups: what makes points.
        operations: what else can be done.
        rescue: what makes rescue media.
        sessions: the virtual machines.
        kept_logs: what is kept of every write behind the points of the chosen source.
        dialogs: where the user says more of what is to be done.
        ending: when the window may close.
        actions_: what the user can ask for.
        menus: the menu bar, with all of them.
        alerts: tells the user of failures who looks elsewhere.
        awake: keeps the computer from falling asleep.
        battery: what the computer runs on.
        resting: has jobs rest meanwhile, if the settings say so.
        history: what was done, in this window and before.
        launcher: how far it is, at the program's icon.
        tray: the icon by which it can be reached once the window is closed.
        plugging: tells of disks and mounts that come or go.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.setWindowTitle("vdbackup")
        room, left = self.screen().availableSize(), store.value.window
        width, height = left.size or (1280, 800)
        self.resize(min(width, room.width()), min(height, room.height() - parts.FRAME))
        if left.maximized:
            self.setWindowState(Qt.WindowState.WindowMaximized)
        self.store = store
        self.workers = Workers(self)
        self.catalogue = Catalogue(store, self.workers, self)
        self._runner = Runner(self, store, self.workers, self.catalogue)
        self.backups = Backups(self._runner)
        self.operations = Operations(self._runner)
        self.rescue = Rescue(self._runner)
        self.sessions = Sessions(store, self.workers, self)
        self.kept_logs = KeptLogs(self.workers, self)
        self.dialogs = Dialogs(self._runner, self.backups, self.operations, self.sessions)
        self.actions_ = Actions(self, self)
        self.ending = Ending(self, self.workers, self.sessions)
        self.alerts = Alerts(desktop.notify, self._is_looked_at)
        self.awake = Awake()
        self.battery, self.resting = Battery(self), Resting()
        self.history = History(store.locations.data, self.workers, self)
        self.launcher = Launcher()
        self.tray = Tray(self)
        self._leaves_desktop = False
        self._theme = theme.chosen(store.value.theme)
        self._elsewhere = False
        self._ran = store.schedules.changed_at()
        self._build()
        self._connect()
        self._take_theme()
        self._on_settings_changed()
        self._on_entry_chosen(None)
        self._on_catalogue_changed()
        self.catalogue.refresh()
        self.sessions.find_saved()
        self.plugging = Plugging(self)
        self.plugging.changed.connect(lambda: self.catalogue.refresh(changed=NOTHING))
        self._clock = QTimer(self, interval=MINUTE)
        self._clock.timeout.connect(self._on_minute)
        self._clock.start()

    def _build(self) -> None:
        self.menus = MenuBar(self.actions_, self)
        self.setMenuBar(self.menus)
        self.addToolBar(ToolBar(self.actions_))
        self.sources = SourcesList(self._theme, self.store.value.remind_after_days)
        self.panel = TimelinePanel(self._theme)
        self.details = PointDetails()
        self.machine = MachineFacts(self.workers)
        self.details.put(self.machine)
        self.details.offer(self.actions_["actionBootInVm"], primary=True)
        self.details.offer(self.actions_["actionBrowse"])
        self.details.offer(self.actions_["actionRestore"])
        self.details.offer_where_ready(self.actions_["actionRestoreFiles"])
        pins = (self.actions_["actionPin"], self.actions_["actionUnpin"])
        self.details.offer_where_ready(self.actions_["actionKeepMoment"], *pins)
        hint = tr("Make a machine of the point for virt-manager, VirtualBox or VMware")
        self.details.offer_menu(self.actions_.open_menu, hint)
        self.jobs = JobsPanel()
        left = self.store.value.window
        if left.source:
            self.sources.choose(left.source)
        self.panel.show_table(left.table)
        self.panel.table.sort_by(left.sort[0], largest_first=left.sort[1])
        self._columns = columns = QSplitter(Qt.Orientation.Horizontal)
        columns.addWidget(self._left())
        columns.addWidget(self.panel)
        columns.addWidget(self.details)
        columns.setSizes(left.columns or [230, 780, 270])
        columns.setStretchFactor(1, 1)
        reader = self.workers.reader(None)
        self.first_run = FirstRunPage(reader, self.store.locations.data / "demo")
        self._pages = QStackedWidget()
        self._pages.addWidget(self.first_run)
        self._pages.addWidget(columns)
        self._rows = body = QSplitter(Qt.Orientation.Vertical)
        body.addWidget(self._pages)
        body.addWidget(self.jobs)
        body.setSizes(left.rows or [620, 116])
        body.setStretchFactor(0, 1)
        for splitter in (columns, body):
            splitter.setHandleWidth(1)
            splitter.setChildrenCollapsible(False)
        self.setCentralWidget(body)
        stay = parts.button(tr("Stay open"), "stayOpen")
        stay.clicked.connect(self.ending.stay)
        self.statusBar().addWidget(
            parts.label(tr("vdbackup closes when all of this is done."), "strong")
        )
        self.statusBar().addPermanentWidget(stay)
        self.statusBar().setSizeGripEnabled(False)
        self.statusBar().hide()
        self.first_run.form.source_edit.setFocus()

    def _left(self) -> QWidget:
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(6, 13, 6, 8)
        column.setSpacing(6)
        heading = parts.label(tr("Sources"), "heading", wrap=False)
        heading.setContentsMargins(8, 0, 0, 0)
        column.addWidget(heading)
        column.addWidget(self.sources, 1)
        add = QPushButton(tr("+  Add a source…"))
        add.clicked.connect(self.actions_["actionAddSource"].trigger)
        opening = parts.button(tr("Open backups…"), "openBackupsButton")
        opening.setToolTip(self.actions_["actionOpenBackups"].toolTip())
        opening.clicked.connect(self.actions_["actionOpenBackups"].trigger)
        for button in (add, opening):
            row = QHBoxLayout()
            row.setContentsMargins(6, 0, 6, 0)
            row.addWidget(button)
            column.addLayout(row)
        column.addWidget(SessionsList(self.sessions, partial(of_machine, self)))
        return left

    def _connect(self) -> None:
        self._connect_jobs()
        self._connect_sources()
        self._connect_program()

    def _connect_jobs(self) -> None:
        self.machine.judged.connect(self._on_machine_judged)
        self.jobs.filled.connect(self.jobs.show)
        self.workers.job_queued.connect(self.jobs.add)
        self.workers.job_started.connect(self.jobs.begin)
        self.workers.progressed.connect(self.jobs.follow)
        self.workers.job_ended.connect(self.jobs.end)
        self.workers.job_ended.connect(self.alerts.job_ended)
        self.workers.job_queued.connect(self.awake.begin)
        self.workers.progressed.connect(self.awake.follow)
        self.workers.job_ended.connect(self.awake.end)
        self.workers.job_queued.connect(self.resting.begin)
        self.workers.job_ended.connect(self.resting.end)
        self.battery.changed.connect(self._on_battery_changed)
        self.workers.job_queued.connect(self.launcher.begin)
        self.workers.progressed.connect(self.launcher.follow)
        self.workers.job_ended.connect(self.launcher.end)
        self.history.failed.connect(self.jobs.refuse)
        self._take_drops()
        self.tray.opened.connect(self.come_forward)
        self.tray.quit_wanted.connect(self.leave_desktop)
        self.jobs.cancel_wanted.connect(self.workers.cancel)
        self._runner.refused.connect(self.jobs.refuse)
        self._runner.refused.connect(lambda _title, _error: self.ending.stay_to_show())
        self.dialogs.failed.connect(self.jobs.refuse)
        self.dialogs.foretold.connect(self.panel.set_going)
        self.dialogs.point_wanted.connect(self._show_point)
        self.ending.changed.connect(self._on_ending_changed)
        self.store.failed.connect(lambda error: self.jobs.refuse(tr("Settings"), error))

    def _connect_sources(self) -> None:
        self.operations.restored.connect(self.rescue.offer)
        self.sessions.changed.connect(self._on_sessions_changed)
        self.sessions.told.connect(self.jobs.tell)
        self.sessions.failed.connect(self.jobs.refuse)
        self.sessions.discard_wanted.connect(self.dialogs.discard)
        self.sessions.promotion_wanted.connect(self.operations.promote)
        self.operations.promoted.connect(self.sessions.find_saved)
        self.operations.protecting.logged.connect(self.kept_logs.refresh)
        self.operations.thinned.connect(self.kept_logs.refresh)
        self.kept_logs.changed.connect(self._on_logs_changed)
        self.catalogue.changed.connect(self._on_catalogue_changed)
        self.store.changed.connect(self._on_settings_changed)
        self.sources.entry_chosen.connect(self._on_entry_chosen)
        self.sources.menu_wanted.connect(self.menus.show_source)
        self._connect_panel()
        self.dialogs.listen_to(self.first_run.form)
        self.backups.begun.connect(lambda entry: self.sources.choose(entry.key))
        self.first_run.demo_wanted.connect(self._on_demo_wanted)
        self.first_run.open_wanted.connect(self.dialogs.open_backups)

    def _connect_program(self) -> None:
        application = QGuiApplication.instance()
        if isinstance(application, QGuiApplication):
            application.applicationStateChanged.connect(self._on_application_state)
        hints = QGuiApplication.styleHints()
        hints.colorSchemeChanged.connect(self._on_settings_changed)

    def _take_drops(self) -> None:
        self._drops = Drops(self)
        self._drops.source_dropped.connect(self.dialogs.add_source)
        self._drops.files_dropped.connect(self.dialogs.add_files)
        self._drops.backups_dropped.connect(self.dialogs.show_backups)

    def _connect_panel(self) -> None:
        self.panel.menu_wanted.connect(self.menus.show_point)
        self.panel.point_selected.connect(self._on_point_selected)
        self.panel.picked.connect(self.actions_.update)
        self.panel.point_activated.connect(self.actions_["actionBootInVm"].trigger)
        self.panel.backup_wanted.connect(self.actions_["actionBackUp"].trigger)

    @property
    def entry(self) -> Entry | None:
        """The chosen source."""
        return self.sources.entry

    @property
    def point(self) -> RecoveryPoint | None:
        """The chosen recovery point, or the moment behind one."""
        if self.entry is None:
            return None
        return self.panel.moment or self.entry.point(self.panel.selected)

    @property
    def chosen(self) -> Chosen:
        """What the user's wishes are about."""
        entry, point, ids = self.entry, self.point, self.panel.chosen
        points = tuple(filter(None, map(entry.point, ids))) if entry and len(ids) > 1 else ()
        point_id = point_of(point.id) if point else ""
        logs = tuple(each for each in self.kept_logs.logs if each.point_id == point_id)
        return Chosen(entry, point, points=points if len(points) > 1 else (), logs=logs)

    # what the user asks for

    def _show_point(self, entry: Entry, point_id: str) -> None:
        if self.entry is not None and self.entry.key == entry.key:
            self.panel.timeline.select(point_id)

    def show_source(self, entry: Entry) -> None:
        """Show what is known of a source."""
        actions = [self.actions_[name] for name in SETS]
        SourceDialog(entry, self.kept_logs.logs, actions, self).open()

    def _on_demo_wanted(self) -> None:
        self.backups.start_demo(self.store.locations.data / "demo")

    def copy(self, text: str) -> None:
        """Put a text on the clipboard."""
        desktop.copy(text)

    def show_disk(self, entry: Entry, point: RecoveryPoint) -> None:
        """Show a point's virtual disk in the file manager."""
        if entry.backup_set is not None:
            desktop.show_file(entry.backup_set.disk_path(point))

    def show_folder(self, folder: Path) -> None:
        """Show a folder in the file manager."""
        desktop.show_folder(folder)

    def show_history(self) -> None:
        """Show what was done, in this window and before."""
        HistoryDialog(self.history, self._theme, self).show()

    def show_manual(self) -> None:
        """Let the user read the manual."""
        ManualDialog(self).show()

    def show_shortcuts(self) -> None:
        """Show what can be done by the keyboard."""
        ShortcutsDialog([self.actions_[each.name] for each in ACTIONS], self).open()

    def show_about(self) -> None:
        """Show which version this is."""
        AboutDialog(self).open()

    # what the parts tell

    def _on_catalogue_changed(self) -> None:
        entries = self.catalogue.entries
        self.sources.set_entries(entries)
        self.alerts.look(entries)
        self.tray.look(entries)
        page = 1 if self.store.value.repositories else 0
        self.jobs.setVisible(bool(page or self.jobs.rows))
        if page != self._pages.currentIndex():
            self._pages.setCurrentIndex(page)
            (self.sources if page else self.first_run.form.source_edit).setFocus()

    def _is_looked_at(self) -> bool:
        """Whether the user has this window, or a dialog of it, in front."""
        return QGuiApplication.applicationState() == Qt.ApplicationState.ApplicationActive

    @Slot()
    def _on_minute(self) -> None:
        """Let ages and reminders grow; look for what is back, and what a schedule has done."""
        self.sources.show_ages()
        self.details.show_age(self.point)
        away = {entry.repository for entry in self.catalogue.entries if entry.problem}
        for repository in away:  # a set that cannot be read is looked at each time
            self.catalogue.refresh(repository, NOTHING)
        ran = self.store.schedules.changed_at()
        if ran != self._ran:
            self._ran = ran
            self.catalogue.refresh(changed=NOTHING)

    def _on_entry_chosen(self, entry: Entry | None) -> None:
        self.panel.show_entry(entry)
        self.panel.set_sessions(self.sessions.points(entry))
        self.kept_logs.show_entry(entry)
        self._on_point_selected()

    def _on_sessions_changed(self) -> None:
        self.panel.set_sessions(self.sessions.points(self.entry))
        self.kept_logs.refresh()

    def _on_logs_changed(self) -> None:
        self.panel.set_logs(self.kept_logs.logs, self.kept_logs.unread)
        self.actions_.update()

    def _on_point_selected(self) -> None:
        entry, point = self.entry, self.point
        self.details.show_point(entry, point)
        self.machine.show_point(entry, point)
        self.details.boot_test.show_test(entry, point, self.workers)
        self.actions_.update()

    def _on_machine_judged(self, holds_data: bool) -> None:
        self.details.prefer("actionBrowse" if holds_data else "actionBootInVm")

    @Slot()
    def _on_settings_changed(self) -> None:
        settings = self.store.value
        if theme.chosen(settings.theme) is not self._theme:
            # in a turn of its own: the dialog that it was chosen in need not be painted anew, too
            QTimer.singleShot(0, self._take_theme)
        self.tray.want(settings.tray, self._theme)
        self.sources.remind_after_days = settings.remind_after_days
        self.panel.animated = settings.animations
        self._on_battery_changed()
        self._on_catalogue_changed()

    def _on_battery_changed(self) -> None:
        self.resting.want(self.battery.in_use and self.store.value.rests_on_battery)

    @Slot()
    def _take_theme(self) -> None:
        """Look as the settings want it, or as the desktop does."""
        self._theme = theme.chosen(self.store.value.theme)
        application = QApplication.instance()
        if isinstance(application, QApplication):
            theme.apply(application, self._theme)
        self.setWindowIcon(icons.icon("vdbackup", self._theme))
        self.tray.want(self.store.value.tray, self._theme)
        self.actions_.set_theme(self._theme)
        self.sources.set_theme(self._theme)
        self.panel.set_theme(self._theme)

    # the end

    @property
    def busy(self) -> bool:
        """Whether a job or a virtual machine runs."""
        return self.ending.busy

    def come_forward(self) -> None:
        """Show the window to whoever has started the program once more."""
        self.setWindowState(self.windowState() & ~Qt.WindowState.WindowMinimized)
        self.show()
        self.raise_()
        self.activateWindow()

    @Slot(Qt.ApplicationState)
    def _on_application_state(self, state: Qt.ApplicationState) -> None:
        self._elsewhere |= state != Qt.ApplicationState.ApplicationActive

    def changeEvent(self, event: QEvent) -> None:
        """Look again at what other programs may have changed while the user was elsewhere."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ActivationChange and self.isActiveWindow():
            self.store.reload()
            # nobody comes from elsewhere who has only closed a dialog
            self.catalogue.refresh(changed=ANY if self._elsewhere else NOTHING)
            self._elsewhere = False
            self.sessions.find_saved()

    def leave_desktop(self) -> None:
        """Close for good, as soon as that may be: the tray does not keep it."""
        self._leaves_desktop = True
        self.come_forward()  # where it has to ask
        self.close()

    def closeEvent(self, event: QCloseEvent) -> None:
        """Close when nothing runs any more; ask before stopping what runs.

        Where the tray keeps the program, only the window goes.
        """
        ends = self._leaves_desktop or self.ending.leaving is not Leaving.STAY
        if self.tray.keeps and not ends:
            event.ignore()
            self.hide()
            return
        if not self.ending.may_close():
            event.ignore()
            return
        for dialog in self.findChildren(QDialog):
            dialog.close()
        self._remember()
        self.hide()  # what a slow disk is still being asked may take a moment
        self.workers.stop()
        self.history.flush()
        event.accept()
        QApplication.quit()  # with a tray, no last window that is closed ends the program

    def _remember(self) -> None:
        """Write down how the window is left; what was never seen in it stays as it was."""
        before = self.store.value.window
        shown = self._pages.currentIndex() == 1
        size = self.normalGeometry().size() if self.isMaximized() else self.size()
        state = WindowState(
            size=(size.width(), size.height()),
            maximized=self.isMaximized(),
            columns=tuple(self._columns.sizes()) if shown else before.columns,
            rows=tuple(self._rows.sizes()) if shown else before.rows,
            table=self.panel.shows_table,
            sort=self.panel.table.sorted_by,
            source=self.entry.key if self.entry else before.source,
        )
        if shown or before != WindowState():
            self.store.change(window=state)

    def _on_ending_changed(self) -> None:
        if self.ending.leaving is Leaving.STAY:
            self._leaves_desktop = False
        self.statusBar().setVisible(self.ending.leaving is Leaving.WHEN_DONE)
