"""Backups that nobody has to remember: timing, store, units, systemd; arrange, run."""
