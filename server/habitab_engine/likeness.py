"""How much two texts have in common; pure."""

from __future__ import annotations


def similarity(text: str, wanted: str) -> float:
    """1 − Levenshtein distance / the longer length; 1.0 for two empty texts."""
    longer = max(len(text), len(wanted))
    return 1 - distance(text, wanted) / longer if longer else 1.0


def distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest characters put in, taken out or replaced.

    A column of the table at a time, as two numbers with a bit for each row (G. Myers, "A fast bit-vector algorithm for
    approximate string matching", 1999; in H. Hyyrö's form).
    """
    if not a:
        return len(b)
    places: dict[str, int] = {}
    for i, char in enumerate(a):
        places[char] = places.get(char, 0) | 1 << i
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    more, less, score = full, 0, len(a)
    for char in b:
        equal = places.get(char, 0)
        across = (((equal & more) + more) ^ more) | equal
        right, left = less | ~(across | more), more & across
        score += bool(right & last) - bool(left & last)
        right, down = (right << 1) | 1, equal | less
        more, less = ((left << 1) | ~(down | right)) & full, right & down & full
    return score
