"""Put files of a point back to where they came from, on the system that runs from there."""

from vdbackup.recovery.put_back import PutBack, PutBackPlan, PutBackRequest, plan, run

__all__ = ["PutBack", "PutBackPlan", "PutBackRequest", "plan", "run"]
