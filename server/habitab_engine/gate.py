"""Whether to ask the model, whether to want several lines, and whether what came back is worth showing.

In comments and strings: a comment is continued while its sentence is being written, not while it is empty nor
after its full stop; a docstring likewise, but it may be begun. A string is continued unless it holds prose:
four words or more, all of letters and none in capitals (those are SQL), for nobody can guess those.
"""

from __future__ import annotations

import re

from habitab_engine.surroundings import Surroundings
from habitab_engine.syntax import TRIPLE_QUOTES
from habitab_engine.types import CompletionRequest

MINIMUM_PROMPT = 10
# About 8,000 lines; beyond it several lines cost more attention than they save.
LARGE_FILE = 300_000
_CLOSING = ")]}\"'`:;, \t"
_FINISHED = re.compile(r"[.!?…]\s*$")
_COMMENT_MARKS = " \t*/#!;<-"
_PROSE_WORDS = 4


def why_not(request: CompletionRequest) -> str | None:
    """The reason not to ask the model at this cursor, or None. Selection and privacy are others' checks."""
    if _visible_characters(request) < MINIMUM_PROMPT:
        return "too little text"
    around = Surroundings.of(request, multiline=False)
    if around.rest.strip(_CLOSING):
        return "text right of the cursor"
    return _why_not_inside(around)


def wants_multiline(request: CompletionRequest) -> bool | None:
    """True after an empty block opener or an accept; False inside a line, in a comment, in a very large file.

    None leaves it to the model's confidence. What speaks for one line comes first.
    """
    around = Surroundings.of(request, multiline=False)
    large = request.offset + len(request.prefix) + len(request.suffix) > LARGE_FILE
    if large or around.rest.strip() or around.in_comment:
        return False
    return True if request.after_accept or around.after_empty_opener else None


def worth_showing(text: str, probability: float, threshold: float) -> bool:
    """Whether there is a text, and the `probability` that it is right reaches `threshold`."""
    return bool(text.strip()) and probability >= threshold


def _visible_characters(request: CompletionRequest) -> int:
    """Characters of the prompt that are not white space, counted as far as it matters."""
    near = request.prefix[-1000:] + request.suffix[:1000]
    return len("".join(near.split()))


def _why_not_inside(around: Surroundings) -> str | None:
    mark = around.inside
    if not mark:
        return None
    line = around.prefix[around.before.content :].rpartition("\n")[2]
    if around.in_comment and not line.strip(_COMMENT_MARKS):
        return "an empty comment"
    if around.in_comment or mark in TRIPLE_QUOTES:
        return "a finished sentence" if _FINISHED.search(line) else None
    return "prose in a string" if _is_prose(line) else None


def _is_prose(text: str) -> bool:
    words = [word.strip(",.;:!?()").replace("'", "").replace("’", "") for word in text.split()]
    shouted = any(len(word) > 1 and word.isupper() for word in words)
    return len(words) >= _PROSE_WORDS and not shouted and all(map(str.isalpha, words))
