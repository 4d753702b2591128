"""The folder that holds the backups.

Read in this order: model, files, lock, digests, journal, repository, draft.
"""
