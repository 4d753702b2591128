"""The folder that holds the backups.

Read in this order: model, lease, lock, files, digests, journal, manifests,
backup_set, repository, draft.
"""
