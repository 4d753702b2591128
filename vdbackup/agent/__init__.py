"""What only root may do to block devices and what is mounted from them. Knows no backups.

Of which blocks change read in this order: tracking, tracked, follower, trust, changes; then what
they stand on: state, marking, btf, bpf, pins, block_devices. The kernel is asked by bpf(2): no
library, no compiler.

Of who does it for whom: in_use (a device in use), service (the program that runs as root),
permission, privileges, messages; then what is the client's alone and is not installed for root:
client, connection, activation.
"""
