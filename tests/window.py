"""An editor window of the tests' own: types as a person does, with a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from habitab_engine.config import Settings
from habitab_engine.types import CompletionRequest, Fate, Signal, Span, Survival, Typed
from habitab_server.documents import Document, Place, after
from habitab_server.feedback import Feedback, Item
from habitab_server.follow import Made
from habitab_server.scope import Scope
from habitab_server.suggestions import Entry, Spot, Suggestions

KEY_SECONDS = 0.15
LONG = 60


@dataclass
class Ghost:
    """What is on the screen: the rest of a suggestion, of which `taken` characters were taken already."""

    id: str
    text: str
    replaced: int
    taken: int = 0


class Window:
    """One document with ║ for the cursor. With `tells` it sends what a client may send; its server knows `texts`."""

    def __init__(self, drawn: str = "x = ║\n", tells: bool = False, uri: str = "untitled:one") -> None:
        before, behind = drawn.split("║")
        self.tells = tells
        self.now = 1000.0
        self.signals: list[Signal] = []
        self.feedback = Feedback(Scope(), self.signals.extend, lambda: None, lambda: self.now, lambda: self.now + 1e9)
        self.document = Document(uri, "python", 1, before + behind, "utf-32")
        self.cursor = after(Place(0, 0), before)
        self.suggestions = Suggestions()
        self.made: dict[str, Made] = {}
        self.texts: list[str] = []
        self.ghost: Ghost | None = None
        self.told_shown = False
        self.steady_since = 0.0

    def configure(self, **values: object) -> None:
        self.feedback.configure(Settings.from_json(values)[0])

    # ---- the server ----

    def offer(self, *texts: str, **facts: object) -> None:
        """What the engine would say from now on, asked for at once."""
        self.texts = list(texts)
        self.ask(**facts)

    def ask(self, menu: str = "", **facts: object) -> None:
        """As the completer: what it said before as far as it fits, else something new."""
        start = Place(self.cursor.line, self.cursor.column - len(menu and self.word()))
        snapshot = self.document.snapshot(start, self.cursor)
        self.feedback.asked(self.document, self.cursor)
        fits = self.suggestions.find(snapshot, menu)
        if not fits and self.texts:
            made = [self.make(text, start, **facts) for text in self.texts]
            self.texts = []
            self.suggestions.add(Entry(Spot.at(snapshot, menu), tuple((one.id, one.text) for one in made), len(made)))
            fits = self.suggestions.find(snapshot, menu, len(made))
        ends = [Place(self.cursor.line, self.cursor.column + fit.replaced) for fit in fits]
        items = [Item(self.made[fit.id], fit.text, start, end) for fit, end in zip(fits, ends, strict=True)]
        self.feedback.offered(self.document, self.document.version, items, menu)
        self._draw(Ghost(*fits[0]) if fits else None)

    def make(self, text: str, place: Place, **facts: object) -> Made:
        at = self.document.snapshot(place)
        request = CompletionRequest(self.document.uri, "one.py", at.prefix, at.suffix, language="python")
        made = Made(uuid4().hex, request, place, text, **facts)  # type: ignore[arg-type]
        self.made[made.id] = made
        return made

    def suppress(self, text: str) -> None:
        made = self.make(text, self.cursor, reason="too unlikely", probability=0.1)
        self.feedback.suppressed(self.document, self.document.version, made, self.cursor)

    def word(self) -> str:
        line = self.document.line(self.cursor.line)[: self.cursor.column]
        return line[len(line.rstrip("abcdefghijklmnopqrstuvwxyz_")) :]

    # ---- the person ----

    def wait(self, seconds: float) -> None:
        """The clock ticks once a second, and where the editor would say that a ghost was shown."""
        for step in [seconds % 1 or 1.0] + [1.0] * (-(-int(seconds * 1000) // 1000) - 1):
            self._say_shown(self.now + step)
            self.now += step
            self.feedback.tick()

    def type(self, keys: str, right: str = "") -> None:
        """Key by key; `right` is what the editor puts right of the cursor by itself, with the last key."""
        for number, key in enumerate(keys):
            self._say_shown(self.now + KEY_SECONDS)
            self.now += KEY_SECONDS
            self.insert(key, right if number == len(keys) - 1 else "", by_hand=True)

    def insert(self, text: str, right: str = "", over: int = 0, by_hand: bool = False) -> None:
        """One change at the cursor; the editor asks afterwards, as every editor does."""
        end = Place(self.cursor.line, self.cursor.column + over)
        self.replace(self.cursor, end, text + right)
        self.cursor = after(self.cursor, text)
        if by_hand and self.ghost is not None:
            self._typed(text)
        self.ask()

    def replace(self, start: Place, end: Place, text: str) -> None:
        self.changes((start, end, text))

    def changes(self, *changes: tuple[Place, Place, str]) -> None:
        """All changes of one moment, each in the document as the one before left it."""
        version = self.document.version + 1
        for start, end, text in changes:
            edit = self.document.change(version, text, (start.line, start.column, end.line, end.column))
            self.feedback.edited(self.document, edit)
        self.feedback.changed(self.document)

    def erase(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += KEY_SECONDS
            left = Place(self.cursor.line, self.cursor.column - 1)
            self.replace(left, self.cursor, "")
            self.cursor = left
            self.ask()

    def tab(self) -> str:
        """Take all that is on the screen."""
        ghost = self.ghost
        assert ghost is not None
        self.ghost = None
        self.now += 0.01
        self._take(ghost.text, ghost.replaced)
        if self.tells:
            self.feedback.accepted(ghost.id)
        self.ask()
        return ghost.text

    def take(self, size: int) -> str:
        """Take the next piece; the command comes with the last one."""
        ghost = self.ghost
        assert ghost is not None
        if size >= len(ghost.text):
            return self.tab()
        piece = ghost.text[:size]
        self.now += 0.01
        self._take(piece, 0)
        taken = ghost.taken + size
        if self.tells:
            self.feedback.partly(ghost.id, taken)
        self.ask()
        if self.ghost is not None and self.ghost.id == ghost.id:
            self.ghost.taken = taken
        return piece

    def move(self, line: int, column: int = 0) -> None:
        """The arrow keys; an editor asks at a new place only when something is typed."""
        self.cursor = Place(line, column)
        self._dismiss("ignored")
        self.ask()

    def escape(self) -> None:
        self._dismiss("rejected", always=True)

    def save(self) -> None:
        self.feedback.saved(self.document.uri)

    def close(self) -> list[Fate]:
        """The window ends; every fate that was told."""
        self.feedback.close()
        return self.fates

    # ---- what was told ----

    @property
    def fates(self) -> list[Fate]:
        return [signal for signal in self.signals if isinstance(signal, Fate)]

    @property
    def survivals(self) -> list[Survival]:
        return [signal for signal in self.signals if isinstance(signal, Survival)]

    @property
    def spans(self) -> list[Span]:
        return [signal for signal in self.signals if isinstance(signal, Span)]

    @property
    def typed(self) -> int:
        return sum(signal.characters for signal in self.signals if isinstance(signal, Typed))

    # ---- the client ----

    def _take(self, text: str, over: int) -> None:
        end = Place(self.cursor.line, self.cursor.column + over)
        self.replace(self.cursor, end, text)
        self.cursor = after(self.cursor, text)

    def _typed(self, key: str) -> None:
        ghost = self.ghost
        assert ghost is not None
        if not ghost.text.startswith(key):
            self._dismiss("typed_over")
        elif ghost.text == key:
            self._dismiss("typed_through")

    def _dismiss(self, reason: str, always: bool = False) -> None:
        if self.ghost is not None and (self.tells or always):
            self.feedback.dismissed(self.ghost.id, reason)
        self.ghost = None

    def _draw(self, ghost: Ghost | None) -> None:
        old, self.ghost = self.ghost, ghost
        same = ghost is not None and old is not None and ghost.id == old.id
        if same and ghost is not None and old is not None:
            ghost.taken = old.taken
        self.told_shown &= same
        self.steady_since = self.now

    def _say_shown(self, until: float) -> None:
        if self.tells and self.ghost is not None and not self.told_shown and until - self.steady_since >= 0.25:
            self.told_shown = True
            self.feedback.shown(self.ghost.id)
