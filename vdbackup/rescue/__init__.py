"""The rescue medium: a Debian with this program on it that starts where no system does.

`making.py` makes one out of Debian's packages and of the program as it is installed here.
`finding.py` is for whoever has started from one: it looks for repositories on attached disks.
"""
