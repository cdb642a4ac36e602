"""Anwen: a self-hosted vault for personal data.

`open` a vault embedded in this process, or `connect` to a running one; both have async twins. Names load on first use,
so that keepers and nodes import nothing of the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anwen.access import connect as connect
    from anwen.access import connect_async as connect_async
    from anwen.access import open as open  # noqa: A004
    from anwen.access import open_async as open_async
    from anwen.client.records import Record as Record
    from anwen.client.sync import Vault as Vault
    from anwen.client.vault import AsyncVault as AsyncVault
    from anwen.vault_folder import create as create

__version__ = "0.1.0"

_WHERE = {
    "AsyncVault": "anwen.client.vault",
    "Record": "anwen.client.records",
    "Vault": "anwen.client.sync",
    "connect": "anwen.access",
    "connect_async": "anwen.access",
    "create": "anwen.vault_folder",
    "open": "anwen.access",
    "open_async": "anwen.access",
}
__all__ = ["__version__", *sorted(_WHERE)]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'anwen' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
