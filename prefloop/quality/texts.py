"""Texts that all but repeat one another. Broder 1997: MinHash estimates the Jaccard similarity of shingle sets."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

PERMUTATIONS = 32
BAND = 4
"""Hashes that must all agree before two texts are compared: at a similarity of 0.8, 98 % of the pairs are met."""
SHINGLE = 6
"""Bytes of UTF-8."""
ALIKE = 0.8
_PRIME = (1 << 31) - 1
_random = np.random.default_rng(0)
_FACTORS = _random.integers(1, _PRIME, PERMUTATIONS, dtype=np.int64)
_POWERS = 257 ** np.arange(SHINGLE, dtype=np.int64)
_SHIFTS = _random.integers(0, _PRIME, PERMUTATIONS, dtype=np.int64)


def signature(text: str) -> tuple[int, ...]:
    """The MinHash of a text's shingles, case and white space aside; () for a text without any."""
    plain = " ".join(text.lower().split())
    data = np.frombuffer(plain.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int64)
    if len(data) == 0:
        return ()
    windows = np.lib.stride_tricks.sliding_window_view(np.r_[data, np.zeros(max(0, SHINGLE - len(data)), int)], SHINGLE)
    values = (np.unique(windows @ _POWERS) % _PRIME)[:, None]
    return tuple(int(v) for v in ((values * _FACTORS + _SHIFTS) % _PRIME).min(axis=0))


def similarity(one: Sequence[int], other: Sequence[int]) -> float:
    """Estimated Jaccard similarity, 0..1, of the texts behind two signatures."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / PERMUTATIONS


def repeated(signatures: Sequence[tuple[int, ...]]) -> list[bool]:
    """For each text, whether another one of them says nearly the same (similarity of at least ALIKE)."""
    found = [False] * len(signatures)
    for band in range(0, PERMUTATIONS, BAND):
        buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, own in enumerate(signatures):
            if own:
                buckets[own[band : band + BAND]].append(index)
        for members in buckets.values():
            # Neighbours suffice: within a bucket what is alike is alike to many.
            for one, other in itertools.pairwise(members):
                if not (found[one] and found[other]) and similarity(signatures[one], signatures[other]) >= ALIKE:
                    found[one] = found[other] = True
    return found
