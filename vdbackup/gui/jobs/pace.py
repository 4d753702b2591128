"""How fast a job goes and how long it will take, from what it reports."""

from __future__ import annotations

SMOOTHING = 3.0  # seconds; older speeds fade from the average at this rate
SETTLED = 1.0  # seconds before a prediction is worth showing


class Pace:
    """Follows one job's progress.

    Attributes:
        speed: bytes per second, 0 before anything is known.
    """

    def __init__(self) -> None:
        self.speed = 0.0
        self._phase = ""
        self._began = self._last = 0.0
        self._done = 0

    def follow(self, phase: str, done: int, now: float) -> None:
        """`done` bytes of a phase are through at `now` (seconds, any origin)."""
        if phase != self._phase or done < self._done:
            self._phase, self._began, self._last, self._done = phase, now, now, done
            self.speed = 0.0
            return
        passed = now - self._last
        if passed <= 0:
            return
        current = (done - self._done) / passed
        weight = 1.0 if not self.speed else min(1.0, passed / SMOOTHING)
        self.speed += weight * (current - self.speed)
        self._last, self._done = now, done

    def seconds_left(self, total: int) -> float | None:
        """A prediction, None while there is nothing to go by."""
        if self.speed <= 0 or self._last - self._began < SETTLED:
            return None
        return max(0, total - self._done) / self.speed
