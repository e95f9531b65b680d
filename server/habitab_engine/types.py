"""What goes into the engine and what comes out: frozen, plain data that also crosses the process border."""

from __future__ import annotations

from dataclasses import dataclass

# Where snippets come from: other open documents, regions edited lately, what the file imports, what resembles it.
SOURCES = ("open", "edits", "imports", "similar")


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of another file that stands before the prompt proper."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One cursor in one document, as it was when the editor asked.

    `prefix` and `suffix` are the text on both sides of the cursor with `\\n` line ends only. They may be cut;
    `offset` is then the number of characters of the document that stand before `prefix`, `length` that of all.
    `document` names the document (its URI): it chooses the KV-cache slot. `path` is what the model reads.
    `must_start` is text that every suggestion has to begin with (the editor's selected menu item).
    `multiline` forbids (False) or asks for (True) several lines; None leaves it to the place and the model.
    `budget_ms` bounds the time for decoding; what is a whole line by then is kept.
    `root` is the workspace folder that holds the document, `file` its place on disk ("" where there is none).
    `sources` are the `SOURCES` of snippets to ask; with `snippets` given none is. `memory` lets what the workspace's
    text says mix with what the model says.
    """

    document: str
    path: str
    prefix: str
    suffix: str
    offset: int = 0
    length: int = 0
    language: str = ""
    must_start: str = ""
    count: int = 1
    after_accept: bool = False
    multiline: bool | None = None
    budget_ms: float = 2000.0
    max_tokens: int = 0
    snippets: tuple[Snippet, ...] = ()
    root: str = ""
    file: str = ""
    sources: tuple[str, ...] = SOURCES
    memory: bool = True


@dataclass(frozen=True, slots=True)
class Folder:
    """A workspace folder, and what in it is private besides the built-in rules."""

    root: str
    private_globs: tuple[str, ...] = ()
    respect_gitignore: bool = True


@dataclass(frozen=True, slots=True)
class OpenText:
    """A document as an editor has it; `file` and `root` as in `CompletionRequest`."""

    document: str
    text: str
    file: str = ""
    root: str = ""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One text to insert at the cursor; `logprobs` has one natural logarithm a token kept (also the healed ones).

    `probability` is what the gate goes by: that its first line is right.
    """

    text: str
    logprobs: tuple[float, ...]
    stop: str
    probability: float = 1.0


@dataclass(frozen=True, slots=True)
class Completion:
    """The engine's answer, best suggestion first; empty `suggestions` carry a `reason`.

    `snippets` were chosen for the prompt, the best last; those that did not fit were left out from the first on.
    """

    suggestions: tuple[Suggestion, ...]
    reason: str
    latency_ms: float
    prompt_tokens: int
    reused_tokens: int
    tokens: int
    adapter: str = ""
    snippets: tuple[Snippet, ...] = ()


# What became of a suggestion: the closed list.
OUTCOMES = (
    "accepted",
    "partly_accepted",
    "typed_through",
    "typed_over",
    "rejected",
    "ignored",
    "unseen",
    "suppressed",
)
# When the text at a suggestion's place is looked at again: seconds after it was inserted, and events.
SURVIVAL_SECONDS = (15, 30, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class Fate:
    """One suggestion and what became of it, once the lines around it have settled.

    `id` stays the same while the suggestion is typed through. `when` is in seconds since 1970, `screen_ms` the time on
    screen. `prefix` and `suffix` are those of its request, `snippets` those of its prompt. `probability` is the gate's;
    `reason` why it was suppressed, else "". `accepted` are the characters of `text` taken in all, `inserted` is what
    then stood from its place to the last of them (what of it was typed too), `instead` what was typed there otherwise.
    `around` is how the lines of the place look now, and what was edited lately: it is only scanned for secrets, never
    kept.
    """

    id: str
    when: float
    root: str
    path: str
    language: str
    trusted: bool
    automatic: bool
    base: str
    adapter: str
    prefix: str
    suffix: str
    snippets: tuple[Snippet, ...]
    text: str
    logprobs: tuple[float, ...]
    probability: float
    reason: str
    latency_ms: float
    outcome: str
    screen_ms: float
    accepted: int
    inserted: str
    instead: str
    around: str


@dataclass(frozen=True, slots=True)
class Survival:
    """The text at the place of suggestion `id` at `at`: one of `SURVIVAL_SECONDS`, "save" or "close"."""

    id: str
    at: str
    when: float
    text: str
    around: str


@dataclass(frozen=True, slots=True)
class Span:
    """What a person typed in one place: `before` became `after` at `line` and `column` (from 0), as in `Fate`."""

    when: float
    root: str
    path: str
    language: str
    line: int
    column: int
    before: str
    after: str
    around: str


@dataclass(frozen=True, slots=True)
class Typed:
    """How many characters were typed by hand in a language since the last of these; no text."""

    when: float
    language: str
    characters: int


Signal = Fate | Survival | Span | Typed
