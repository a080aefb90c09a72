"""Randomness comes from generators seeded per purpose, never from global state.

`derive_seed(seed, "batches", "forget", 3)` is a pure function, so a resumed run, another process or another order of calls
draws the same numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose: the first bytes of SHA-256 over the seed and the purpose's words."""
    text = "\x1f".join([str(int(seed)), *(str(word) for word in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(seed: int, *purpose: object) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, *purpose))
