"""The folder that holds the backups.

Read in this order: model, lease, lock, files, digests, journal, repository, draft.
"""
