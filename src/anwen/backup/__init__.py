"""Backups: a copy of the store, with wraps apart from all the rest, and the drill that opens people from one."""
