"""A person's session in VS Code, scripted: at each place a ghost is asked for, and something is done to it.

The keys follow the ghost that is seen, so a session is as good with another base; what has to be recorded follows
from what was done.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from code_server import Ghost, Window

# Longer than an outcome needs to be seen (250 ms), and than it may last (10 s).
_SEEN_MS, _LONG_MS = 350, 10_500
_WRITE_SECONDS = 15
_SUPPRESSED, _SUPPRESSED_MS = 3, 1_000
_CLASSES = {"Vector": "x y", "Size": "width height", "Money": "amount fee"}


class _Language(NamedTuple):
    """How a class begins, and each method that it lacks: what stands before it, its body, names with signs."""

    ending: str
    begun: str
    lead: str
    whole: str
    signs: str

    @property
    def methods(self) -> Iterator[tuple[str, str]]:
        words = self.signs.split()
        return zip(words[::2], words[1::2], strict=True)


_PYTHON = _Language(
    ".py",
    """class {0}:
    def __init__(self, {1}, {2}):
        self.{1} = {1}
        self.{2} = {2}

    def __add__(self, other):
        return {0}(self.{1} + other.{1}, self.{2} + other.{2})""",
    "\n\n    def __{method}__(self, other):\n        ",
    "return {0}(self.{1} {sign} other.{1}, self.{2} {sign} other.{2})",
    "sub - mul * truediv / floordiv // mod % pow ** matmul @ lshift << rshift >> and & or | xor ^ rsub - rmul *",
)
_TYPESCRIPT = _Language(
    ".ts",
    """export class {0} {{
  constructor(public {1}: number, public {2}: number) {{}}

  add(other: {0}): {0} {{
    return new {0}(this.{1} + other.{1}, this.{2} + other.{2});
  }}""",
    "\n\n  {method}(other: {0}): {0} {{\n    ",
    "return new {0}(this.{1} {sign} other.{1}, this.{2} {sign} other.{2});\n  }}",
    "subtract - multiply * divide / remainder % power ** raise << lower >> mask & unite | differ ^",
)
_BEGUN, _KEY = "ret", "u"


class Place(NamedTuple):
    """Where a ghost is asked for: `file` ends with `lead` and a line just begun, which should be `whole`."""

    file: str
    lead: str
    whole: str

    @property
    def before(self) -> str:
        """What stands before the ghost: the last key asks for it."""
        return self.lead + _BEGUN + _KEY


def write_files(folder: Path) -> None:
    """The classes that the session adds methods to."""
    folder.mkdir()
    for language in (_PYTHON, _TYPESCRIPT):
        for name, fields in _CLASSES.items():
            text = language.begun.format(name, *fields.split())
            (folder / (name.lower() + language.ending)).write_text(text, encoding="utf-8")


def places() -> Iterator[Place]:
    """One file after the other: methods that read like the class's first one. TypeScript's are two lines long."""
    for name, fields in _CLASSES.items():
        for language in (_PYTHON, _TYPESCRIPT):
            for method, sign in language.methods:
                texts = (language.lead, language.whole)
                lead, whole = (text.format(name, *fields.split(), method=method, sign=sign) for text in texts)
                yield Place(name.lower() + language.ending, lead, whole)


@dataclass(frozen=True, slots=True)
class Done:
    """What was done to one ghost and has to be recorded: its outcome, and the characters taken of it."""

    action: str
    place: Place
    ghost: Ghost
    outcome: str
    taken: int

    @property
    def stood(self) -> str:
        """The text that would have stood in the file."""
        return self.place.before + self.ghost.text


Result = tuple[str, int]
Act = Callable[[Window, str], Result]


def _other(ghost: str) -> str:
    """A character that the ghost does not go on with."""
    return "q" if ghost[0] != "q" else "z"


def _accept(window: Window, ghost: str) -> Result:
    window.press("Tab")
    return "accepted", len(ghost)


def _accept_a_word(window: Window, ghost: str) -> Result:
    return _take_words(window, ghost, 1)


def _accept_words(window: Window, ghost: str) -> Result:
    return _take_words(window, ghost, 4)


def _take_words(window: Window, ghost: str, count: int) -> Result:
    rest = ghost
    for _ in range(count):
        rest = _take_word(window, rest)
    assert rest
    window.do({"wait": _SEEN_MS}, {"press": "ArrowUp"})
    return "partly_accepted", len(ghost) - len(rest)


def _take_word(window: Window, ghost: str) -> str:
    """What is left of a ghost without its first word; "" where that was the last."""
    window.press("Control+ArrowRight")
    seen = window.until(lambda seen: seen["ghost"] != ghost and (not seen["ghost"] or ghost.endswith(seen["ghost"])))
    return seen["ghost"] or ""


def _accept_every_word(window: Window, ghost: str) -> Result:
    rest = ghost
    while rest:
        rest = _take_word(window, rest)
    return "accepted", len(ghost)


def _reject(window: Window, ghost: str) -> Result:
    window.press("Escape")
    window.until(lambda seen: not seen["ghost"])
    return "rejected", 0


def _type_through(window: Window, ghost: str) -> Result:
    window.type(ghost)
    return "typed_through", 0


def _type_and_accept(window: Window, ghost: str) -> Result:
    rest = _type_some(window, ghost)
    window.press("Tab")
    return "accepted", len(rest)


def _type_some(window: Window, ghost: str) -> str:
    """Type the first characters of a ghost; what is left of it."""
    window.type(ghost[:5])
    window.until(lambda seen: seen["ghost"] == ghost[5:])
    return ghost[5:]


def _type_over(window: Window, ghost: str) -> Result:
    window.do({"type": _other(ghost)}, {"press": "ArrowUp"})
    return "typed_over", 0


def _type_and_type_over(window: Window, ghost: str) -> Result:
    return _type_over(window, _type_some(window, ghost))


def _leave_upwards(window: Window, ghost: str) -> Result:
    window.press("ArrowUp")
    return "ignored", 0


def _leave_to_the_left(window: Window, ghost: str) -> Result:
    window.press("ArrowLeft")
    return "ignored", 0


def _wait(window: Window, ghost: str) -> Result:
    window.do({"wait": _LONG_MS})
    return "ignored", 0


_GONE = "typed over at once"
_AT_ONCE = [{"type": "q"}, {"press": "ArrowUp"}]
ACTIONS: dict[str, tuple[Act, int]] = {
    "Tab": (_accept, 8),
    "a word": (_accept_a_word, 6),
    "Escape": (_reject, 6),
    "four words": (_accept_words, 5),
    "typed through": (_type_through, 4),
    "typed over": (_type_over, 6),
    "arrow up": (_leave_upwards, 4),
    "word by word": (_accept_every_word, 4),
    "arrow left": (_leave_to_the_left, 4),
    "typed on, Tab": (_type_and_accept, 4),
    "typed on, typed over": (_type_and_type_over, 4),
    "waited 10 s": (_wait, 1),
    _GONE: (lambda window, ghost: ("unseen", 0), 3),
}


def script() -> tuple[list[tuple[str, Place]], list[Place]]:
    """(action, place) of every ghost, well mixed, each place used once; and places for what is suppressed."""
    counts = {name: count for name, (_, count) in ACTIONS.items()}
    mixed = [name for turn in range(max(counts.values())) for name, count in counts.items() if count > turn]
    free = places()
    plan = [(name, next(free)) for name in mixed]
    return plan, [place for place in free if place.file == plan[-1][1].file][:_SUPPRESSED]


class Session:
    """Works through a script in one window, whose workspace is `folder`."""

    def __init__(self, window: Window, folder: Path) -> None:
        self._window, self._folder = window, folder
        self._file = ""
        self._broken = ""

    def run(self, plan: list[tuple[str, Place]]) -> list[Done]:
        return [self._act(name, place) for name, place in plan]

    def _act(self, name: str, place: Place) -> Done:
        if place.file != self._file:
            self._open(place.file)
        then = _AT_ONCE if name == _GONE else [{"wait": _SEEN_MS}]
        ghost = self._window.asks(*self._begin(place), {"type": _KEY}, then=then)
        outcome, taken = ACTIONS[name][0](self._window, ghost.text)
        if outcome not in ("accepted", "typed_through"):
            self._broken = place.whole
        return Done(name, place, ghost, outcome, taken)

    def _begin(self, place: Place) -> list[dict[str, str]]:
        """Mend the line before and put the next one's beginning behind it, in one go."""
        mending = [{"press": "Shift+Home"}] if self._broken else []
        text, self._broken = self._broken + place.lead + _BEGUN, ""
        return [{"press": "Control+End"}, *mending, {"insert": text}]

    def _open(self, file: str) -> None:
        self._window.open_file(self._folder / file)
        self._file, self._broken = file, ""


def suppress(window: Window, plan: list[Place], slowest: float) -> list[Done]:
    """Type where everything is suppressed: no ghost comes in twice the milliseconds that the `slowest` one took."""
    done, patience = [], max(_SUPPRESSED_MS, 2 * slowest)
    for place in plan:
        begin = [{"press": "Control+End"}, {"insert": place.lead + _BEGUN}, {"type": _KEY}]
        seen = window.do(*begin, {"wait": patience}, {"look": True}, {"press": "ArrowUp"})[-2]
        assert seen["ghost"] is None, seen
        done.append(Done("suppressed by the gate", place, Ghost("", 0), "suppressed", 0))
    return done


class Match(NamedTuple):
    """What was done, and the rows that tell of it."""

    done: Done
    rows: list[sqlite3.Row]

    @property
    def recorded(self) -> str:
        return ", ".join(sorted(row["outcome"] for row in self.rows)) or "nothing"

    @property
    def right(self) -> bool:
        """Whether one row tells what was done and what stands in the document because of it, and no other row does."""
        done, told = self.done, [(row["outcome"], row["accepted"], row["inserted"]) for row in self.rows]
        inserted = {"accepted": done.ghost.text, "partly_accepted": done.ghost.text[: done.taken]}
        return told == [(done.outcome, done.taken, inserted.get(done.outcome, ""))]


def recorded(session: list[Done], home: Path) -> tuple[list[Match], list[sqlite3.Row]]:
    """Each ghost with its rows, and the rows of no ghost; the store may write some seconds behind the window."""
    deadline = time.monotonic() + _WRITE_SECONDS
    while True:
        found, left = _matches(session, _rows(home))
        if all(match.rows for match in found) or time.monotonic() > deadline:
            return found, left
        time.sleep(0.1)


def _rows(home: Path) -> list[sqlite3.Row]:
    """Every suggestion in the store."""
    for file in home.glob("users/*/signals.db"):
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return db.execute("select * from suggestions").fetchall()
    return []


def _matches(session: list[Done], rows: list[sqlite3.Row]) -> tuple[list[Match], list[sqlite3.Row]]:
    left = list(rows)
    found = []
    for done in session:
        own = [row for row in left if _tells(row, done)]
        left = [row for row in left if row not in own]
        found.append(Match(done, own))
    return found, left


def _tells(row: sqlite3.Row, done: Done) -> bool:
    """Whether both would write the same at the same place."""
    place = done.place
    if not done.ghost.text:
        return row["path"] == place.file and row["prefix"].endswith((place.lead + _BEGUN, place.before))
    return row["path"] == place.file and (row["prefix"] + row["text"]).endswith(done.stood)


def table(found: list[Match]) -> list[str]:
    """Lines to print: every action, how often it was done, what was expected and what was recorded."""
    lines = [f"{'action':<24}{'ghosts':>7}  {'expected':<17}recorded"]
    for name in dict.fromkeys(match.done.action for match in found):
        own = [match for match in found if match.done.action == name]
        recorded = Counter(match.recorded for match in own)
        told = ", ".join(f"{count} {outcome}" for outcome, count in recorded.most_common())
        lines.append(f"{name:<24}{len(own):>7}  {own[0].done.outcome:<17}{told}")
    return lines
