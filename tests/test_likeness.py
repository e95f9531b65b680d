"""Levenshtein's distance agrees with its plain definition."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from habitab_engine.likeness import distance, similarity

TEXTS = st.text(alphabet="ab c", max_size=7)


@given(TEXTS, TEXTS)
def test_distance_is_levenshtein_s(a: str, b: str) -> None:
    @lru_cache
    def plain(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(plain(i - 1, j) + 1, plain(i, j - 1) + 1, plain(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert distance(a, b) == plain(len(a), len(b))


@pytest.mark.parametrize(("a", "b", "alike"), [("", "", 1.0), ("abc", "", 0.0), ("abcd", "abxd", 0.75)])
def test_similarity_is_one_for_equal_texts_and_none_for_nothing(a: str, b: str, alike: float) -> None:
    assert similarity(a, b) == alike
