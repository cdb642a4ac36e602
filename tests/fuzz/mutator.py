"""A small mutator in plain Python, the same inputs for the same seed: for where atheris is not."""

import random

from feed import NUMBERS

MOST_BYTES = 4096


def mutants(seeds, seed):
    """Endlessly yield inputs: each seed as it is, then changed ones, spliced ones, and junk."""
    chance = random.Random(seed)
    seeds = list(seeds) or [b""]
    yield from seeds
    while True:
        data = bytearray(chance.choice(seeds))
        if not chance.randrange(8):
            data = bytearray(chance.randbytes(chance.randrange(64)))
        elif not chance.randrange(8):
            other = chance.choice(seeds)
            data = data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            _change(data, chance)
        yield bytes(data[:MOST_BYTES])


def _change(data, chance):
    """Change one place; early bytes more often, since decisions of a feed and heads of formats lie there."""
    at = min(chance.randrange(len(data) + 1), chance.randrange(len(data) + 1))
    match chance.randrange(9):
        case 0 | 1:
            data[at : at + 1] = chance.randbytes(1)
        case 2:
            if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
        case 3:
            data[at:at] = chance.randbytes(chance.randrange(1, 9))
        case 4:
            del data[at : at + chance.choice((1, 1, 2, 4, 8, 32))]
        case 5:
            size = chance.choice((1, 2, 4, 8))
            data[at : at + size] = (chance.choice(NUMBERS) % 256**size).to_bytes(size)
        case 6:
            length, to = chance.randrange(1, 33), chance.randrange(len(data) + 1)
            data[to:to] = data[at : at + length]
        case 7:
            data[at:at] = data[at : at + 1] * chance.choice((1, 2, 8, 1500))
        case _:
            data[at:at] = chance.choice(
                (b'"', b"{", b"[", b"\n", b"\\", b"\\ud800", b"\0", b",", b"1e999", b"\xff", b"=")
            )
