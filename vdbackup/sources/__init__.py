"""What can be backed up. Read in this order: source, devices, demo_disk."""
