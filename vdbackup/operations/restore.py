"""Restore: a point goes to a file or device, as it was."""

from __future__ import annotations

from vdbackup.recovery.restore import Restored, RestorePlan, RestoreRequest, format_of, plan, run

__all__ = ["RestorePlan", "RestoreRequest", "Restored", "format_of", "plan", "run"]
