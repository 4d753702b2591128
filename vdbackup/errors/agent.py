"""What only root may do to a volume in use was refused or failed."""

from __future__ import annotations

from vdbackup.errors.base import VdbackupError


class AgentError(VdbackupError):
    """What only root may do to a volume in use was refused or failed."""

    code = "agent-refused"


class NeedsRoot(AgentError):
    """An ordinary user asks for what only root may do."""

    code = "needs-root"


class TrackingNotSupported(AgentError):
    """This kernel, or this system, cannot or may not see which blocks of a disk change."""

    code = "tracking-not-supported"


class TrackingRefused(AgentError):
    """Not all changes of this disk would be seen."""

    code = "tracking-refused"


class NotTracked(AgentError):
    """Nobody looks at which blocks of this disk change."""

    code = "not-tracked"


class LogRefused(AgentError):
    """The writes to this volume cannot be logged."""

    code = "log-refused"


class TrackerBusy(AgentError):
    """Another process is at work with a tracker."""

    code = "tracker-busy"


class Unauthorized(AgentError):
    """This user may not do that to this disk, or nobody could be asked whether they may."""

    code = "unauthorized"


class AgentFailed(AgentError):
    """The service that does what only root may do failed, or does not understand."""

    code = "agent-failed"


class AgentIncomplete(AgentError):
    """A file of the service's is missing in this installation."""

    code = "agent-incomplete"
