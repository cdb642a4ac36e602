"""Room that is divided, so that no flood from one place, or in one name, takes what others need.

Pure: counts alone.
"""

from __future__ import annotations

from collections import Counter

Owner = tuple[str, ...]
"""Who holds a part, from the widest on: an address, and a name that is claimed from there."""


class Room:
    """So many requests, or bytes, at a time.

    Whoever holds some may take more for as long as he holds no more than is left for him: half of all if alone, a third
    beside another, so that there is always something for one who comes with his first. Names divide what is left for
    their address in the same way: a name that is used from elsewhere takes nothing of it.
    """

    def __init__(self, size: int) -> None:
        self._size, self._held = size, Counter[Owner]()

    @property
    def taken(self) -> int:
        """What all hold together."""
        return self._held[()]

    def take(self, owner: Owner, amount: int = 1) -> bool:
        """Return whether there was room for `amount`; if so it is taken."""
        left = self._size - self._held[()]
        if amount > left:
            return False
        for depth in range(1, len(owner) + 1):
            held = self._held[owner[:depth]]
            if held > left:
                return False
            left = (left - held) // 2 + 1
        for depth in range(len(owner) + 1):
            self._held[owner[:depth]] += amount
        return True

    def give_back(self, owner: Owner, amount: int = 1) -> None:
        """Take back what `owner` took."""
        for depth in range(len(owner) + 1):
            part = owner[:depth]
            self._held[part] -= amount
            if not self._held[part]:
                del self._held[part]
