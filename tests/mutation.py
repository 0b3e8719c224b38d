"""Files as damage and attackers leave them: bits flipped, numbers replaced, parts cut out or off."""

import numpy as np


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, more often in the first 400, where headers are."""
    changed = bytearray(content)
    head = min(len(changed), 400) if rng.random() < 0.6 else len(changed)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(0, head))
        match rng.integers(0, 4):
            case 0:
                changed[place % len(changed)] ^= 1 << int(rng.integers(0, 8))
            case 1:
                number = int(rng.choice([0, 1, 100, 2**16, 2**31 - 1, 2**31, 2**32 - 1, len(content)]))
                changed[place : place + 4] = number.to_bytes(4, "little" if rng.random() < 0.5 else "big")
            case 2:
                del changed[max(1, int(rng.integers(1, len(changed) + 1))) :]
            case _:
                del changed[place : place + int(rng.integers(1, 200))]
                changed = changed or bytearray(b"\0")
    return bytes(changed)
