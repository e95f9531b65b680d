"""Near-duplicate texts, found one by one: MinHash over shingles of tokens, with banding; numpy alone.

Sources: A. Broder, "On the resemblance and containment of documents" (1997), for shingles and MinHash; J. Leskovec,
A. Rajaraman, J. Ullman, "Mining of Massive Datasets", section 3.4, for banding; multiply-shift hashing after
M. Dietzfelbinger et al. (1997).
"""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 64
BANDS = 16  # of 4 values: two texts of resemblance 0.7 meet in one with a probability of 0.99
THRESHOLD = 0.7  # of the resemblance as the signatures estimate it
_SHINGLE = 5  # tokens
_MOST_SHINGLES = 20_000  # looked at in one text
_BLOCK = 4_096  # signatures added to the table at once
# What a file begins with, its licence above all: many short files that share nothing else have it in common.
_OPENING = re.compile(r"(?:\s*(?:#[^\n]*|//[^\n]*|/\*.*?\*/))*", re.DOTALL)
_TOKEN = re.compile(r"\w+|[^\w\s]")


class NearDuplicates:
    """The texts seen so far: 64 values of 4 bytes and 16 table entries each, about 2 kB a text."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self._factors = random.integers(0, 2**63, (PERMUTATIONS, 1), dtype=np.uint64) * 2 + 1
        self._terms = random.integers(0, 2**63, (PERMUTATIONS, 1), dtype=np.uint64)
        self._signatures = np.empty((_BLOCK, PERMUTATIONS), np.uint32)
        self._bands: dict[int, int] = {}
        self._count = 0

    def seen(self, text: str) -> bool:
        """Whether a text like this one has been given before; if not, it is remembered."""
        signature = self.signature(text)
        bands = _bands(signature)
        rivals = {self._bands[band] for band in bands if band in self._bands}
        if any(np.mean(self._signatures[rival] == signature) >= THRESHOLD for rival in rivals):
            return True
        self._remember(signature, bands)
        return False

    def signature(self, text: str) -> NDArray[np.uint32]:
        """uint32 [PERMUTATIONS]: the least hash of any shingle under each permutation."""
        shingles = _shingles(text)
        return ((shingles * self._factors + self._terms) >> np.uint64(32)).min(axis=1).astype(np.uint32)

    def _remember(self, signature: NDArray[np.uint32], bands: list[int]) -> None:
        if self._count == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures[:_BLOCK])])
        self._signatures[self._count] = signature
        for band in bands:
            self._bands.setdefault(band, self._count)
        self._count += 1


def _shingles(text: str) -> NDArray[np.uint64]:
    """Hashes of the distinct runs of _SHINGLE tokens behind the opening comments; of fewer tokens there is one run."""
    opening = _OPENING.match(text)
    tokens = _TOKEN.findall(text, opening.end() if opening else 0)[:_MOST_SHINGLES]
    known = {token: zlib.crc32(token.encode()) for token in set(tokens)}
    hashes = np.array([known[token] for token in tokens] or [0], np.uint64)
    hashes = np.pad(hashes, (0, max(0, _SHINGLE - len(hashes))))
    runs = np.zeros(len(hashes) - _SHINGLE + 1, np.uint64)
    for offset in range(_SHINGLE):
        runs = runs * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + len(runs)]
    runs ^= runs >> np.uint64(29)
    return np.unique(runs * np.uint64(0xBF58476D1CE4E5B9))


def _bands(signature: NDArray[np.uint32]) -> list[int]:
    """A key for each band of the signature; equal within one run only, as hashes of bytes are."""
    rows = signature.reshape(BANDS, -1)
    return [hash((number, row.tobytes())) for number, row in enumerate(rows)]
