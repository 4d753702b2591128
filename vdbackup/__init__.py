"""vdbackup: backs volumes up straight into virtual disks that a virtual machine can boot."""

__version__ = "0.1.0"
