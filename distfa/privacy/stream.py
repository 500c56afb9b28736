"""Random numbers from a secret key, by place: whoever lacks the key can foretell none of them, and a replay draws the
same ones again.

ChaCha20 turns (key, place) into bytes; no two places of a key share any. Normal numbers are made in float64 from 53
bits each (Box & Muller, 1958), so none is further out than 8.6.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

_NUMBER_BYTES = 8
_FIRST_BLOCK = bytes(4)  # ChaCha20 counts its blocks of 64 bytes from here: 256 GiB for each place


class Stream:
    """The numbers of one key.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "Stream(...)"  # never the key

    def integers(self, step: int, count: int, part: int = 0) -> NDArray[np.uint64]:
        """``count`` numbers, uniform over 0 .. 2^64 - 1, of the place (step, part)."""
        place = _FIRST_BLOCK + step.to_bytes(8, "little") + part.to_bytes(4, "little")
        cipher = Cipher(algorithms.ChaCha20(self._key, place), mode=None).encryptor()
        return np.frombuffer(cipher.update(bytes(_NUMBER_BYTES * count)), dtype="<u8")

    def normals(self, step: int, count: int, part: int = 0) -> NDArray[np.float64]:
        """``count`` independent standard normal numbers, float64, of the place (step, part)."""
        pairs = -(-count // 2)
        bits = self.integers(step, 2 * pairs, part) >> np.uint64(11)
        above_zero = (bits + np.uint64(1)).astype(np.float64) * 2.0**-53  # 2^-53 .. 1
        radius, angle = np.sqrt(-2.0 * np.log(above_zero[:pairs])), 2.0 * np.pi * above_zero[pairs:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
