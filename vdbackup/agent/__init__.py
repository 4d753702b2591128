"""What only root may do to block devices and what is mounted from them. Knows no backups."""
