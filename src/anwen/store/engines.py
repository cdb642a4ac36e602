"""The engines that a policy may name, and how a node opens the one of its own `node.json` (docs/spec/store.md)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from anwen.errors import PolicyError
from anwen.formats.policy_schema import ENGINES
from anwen.store.base import Store


async def connect(engine: str, settings: Mapping[str, object], folder: Path) -> Store:
    """Return the store that a node serves.

    Each engine is a module `anwen.store.ENGINE` with a `connect`; two need the extra of their name.

    Args:
        settings: "store" of `node.json`: `{"path": ...}` of a SQLite file, else how to reach the servers.
        folder: what paths in `settings` are relative to.

    Raises:
        PolicyError: no such engine, its extra is not installed, settings that it does not know, or servers whose own
            settings break a promise. StorageError: it is damaged. UnavailableError: it cannot be reached.
    """
    store: Store = await module(engine, engine).connect(settings, folder)
    return store


def module(engine: str, name: str) -> Any:
    """Return a module of an engine. Raises PolicyError: no such engine, or its extra is not installed."""
    if engine not in ENGINES:
        raise PolicyError(f"engine {engine}: expected one of {', '.join(ENGINES)}")
    try:
        return import_module(f"anwen.store.{name}")
    except ModuleNotFoundError as error:
        raise PolicyError(f"engine {engine}: {error.name} is not installed: pip install 'anwen[{engine}]'") from error
