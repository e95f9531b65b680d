"""What a line scanner has to know of a language: comments, strings, brackets and what opens a block.

No parser: a text may be cut anywhere and is broken most of the time while someone types. The scanner reads
marks from left to right, so it can err on exotic literals; whatever it says is only used to hold back or to
cut a suggestion, never to change what the person wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath

CLOSER_OF = {"(": ")", "[": "]", "{": "}"}
CLOSING_BRACKETS = ")]}"


@dataclass(frozen=True, slots=True)
class Syntax:
    """Marks of one family of languages; `neutral` and `block_opener` are regular expressions."""

    line_comments: tuple[str, ...] = ()
    block_comments: tuple[tuple[str, str], ...] = ()
    quotes: tuple[str, ...] = ('"',)
    long_quotes: tuple[str, ...] = ()
    neutral: str = ""
    brackets: bool = True
    block_opener: str = r"\{$"
    end_words: frozenset[str] = frozenset()
    indented_blocks: bool = False
    marks: re.Pattern[str] = field(init=False, compare=False, repr=False)
    ends: dict[str, re.Pattern[str]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", self._ends())
        words = sorted(self.ends, key=len, reverse=True)
        parts = [self.neutral] if self.neutral else []
        parts += [re.escape(word) for word in words]
        parts += [r"[()\[\]{}]"] if self.brackets else []
        # A pattern that matches nothing stands in for a language without any mark.
        object.__setattr__(self, "marks", re.compile("|".join(parts) or r"(?!)"))

    def _ends(self) -> dict[str, re.Pattern[str]]:
        ends = {mark: r"\n" for mark in self.line_comments}
        ends |= {start: re.escape(stop) for start, stop in self.block_comments}
        for quote in self.quotes:
            ends[quote] = rf"(?:[^\\\n{quote}]|\\[\s\S])*+(?:{quote}|\n)"
        for quote in self.long_quotes:
            ends[quote] = rf"(?:[^\\]|\\[\s\S])*?{quote}"
        return {mark: re.compile(end) for mark, end in ends.items()}

    def is_comment(self, mark: str) -> bool:
        return mark in self.line_comments or any(mark == start for start, _ in self.block_comments)

    def end_of(self, mark: str, text: str, start: int) -> int:
        """The position after the comment or string that `mark` opened before `start`; -1 if it never ends."""
        pattern = self.ends[mark]
        found = pattern.search(text, start) if self.is_comment(mark) else pattern.match(text, start)
        return found.end() if found else -1


@dataclass(frozen=True, slots=True)
class Scan:
    """What a text leaves: unclosed brackets, closers without an opener, the comment or string it ends in.

    `openers` and `closers` are (bracket, position) in reading order; `inside` is the mark that opened the
    comment or string the text ends in ("" for code), whose content begins at `content`.
    """

    openers: tuple[tuple[str, int], ...]
    closers: tuple[tuple[str, int], ...]
    inside: str
    content: int


def scan(text: str, syntax: Syntax, inside: str = "") -> Scan:
    """Read `text`, which begins in code or in the comment or string that the mark `inside` opened. Linear."""
    openers: list[tuple[str, int]] = []
    closers: list[tuple[str, int]] = []
    mark, start = inside, 0
    while True:
        position = syntax.end_of(mark, text, start) if mark else start
        if position < 0:
            return Scan(tuple(openers), tuple(closers), mark, start)
        found = syntax.marks.search(text, position)
        if not found:
            return Scan(tuple(openers), tuple(closers), "", len(text))
        token, start = found.group(), found.end()
        mark = token if token in syntax.ends else ""
        if token in CLOSER_OF:
            openers.append((token, found.start()))
        elif token in CLOSING_BRACKETS:
            _close(token, found.start(), openers, closers)


def _close(closer: str, position: int, openers: list[tuple[str, int]], closers: list[tuple[str, int]]) -> None:
    """Close the nearest opener of the same kind (what stands open inside it is taken as broken code)."""
    for index in range(len(openers) - 1, -1, -1):
        if CLOSER_OF[openers[index][0]] == closer:
            del openers[index:]
            return
    closers.append((closer, position))


_scan_part = lru_cache(maxsize=64)(scan)
_PART = 2000


def scan_long(text: str, syntax: Syntax) -> Scan:
    """`scan`, in parts that are remembered: while someone types only the last part is read again."""
    openers: list[tuple[str, int]] = []
    closers: list[tuple[str, int]] = []
    inside, content, start = "", 0, 0
    while start < len(text):
        stop = text.find("\n", start + _PART) + 1 or len(text)
        part = _scan_part(text[start:stop], syntax, inside)
        for bracket, position in part.closers:
            _close(bracket, start + position, openers, closers)
        openers += [(bracket, start + position) for bracket, position in part.openers]
        # Content that begins at 0 belongs to a mark of an earlier part.
        content = start + part.content if part.content or not part.inside else content
        inside, start = part.inside, stop
    return Scan(tuple(openers), tuple(closers), inside, content)


_C_COMMENTS = (("/*", "*/"),)
_CHARACTER = r"'(?:\\[^\n']{1,10}|\\'|[^\\'\n])'"
_C = Syntax(("//",), _C_COMMENTS, ('"',), neutral=_CHARACTER)
TRIPLE_QUOTES = ('"""', "'''")
_SCRIPT_REGEX = r"(?<=[=(,:\s])/(?![/*\s])(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*+\])++/"
_END = frozenset({"end"})
_PYTHON_WORDS = "def|class|if|elif|else|for|while|with|try|except|finally|match|case"
# The last line of a signature that was wrapped begins with its closing bracket.
_PYTHON_BLOCK = rf"^\s*(?:(?:async\s+)?(?:{_PYTHON_WORDS})\b.*|[)\]].*):$"
_BLOCK_WORDS = "def|class|module|defmodule|if|unless|while|until|case|begin|for|elsif|else|rescue|when"
_WORD_BLOCK = rf"(?:\b(?:do|then|else|begin)(?:\s*\|[^|\n]*\|)?|\{{|^\s*(?:{_BLOCK_WORDS}|(?:local )?function)\b[^;]*)$"

PLAIN = Syntax(quotes=(), brackets=False, block_opener=r"(?!)")
OTHER = Syntax()

_FAMILIES: dict[str, Syntax] = {
    "python starlark cython": Syntax(
        ("#",), (), ('"', "'"), TRIPLE_QUOTES, block_opener=_PYTHON_BLOCK, indented_blocks=True
    ),
    "javascript javascriptreact typescript typescriptreact": Syntax(
        ("//",), _C_COMMENTS, ('"', "'"), ("`",), neutral=_SCRIPT_REGEX, block_opener=r"[{]$"
    ),
    "go": Syntax(("//",), _C_COMMENTS, ('"',), ("`",), neutral=_CHARACTER),
    "rust c cpp objective-c objective-cpp cuda-cpp zig solidity proto proto3 verilog glsl": _C,
    "java kotlin scala swift csharp groovy fsharp": Syntax(("//",), _C_COMMENTS, ('"',), ('"""',), neutral=_CHARACTER),
    "dart": Syntax(("//",), _C_COMMENTS, ('"', "'"), TRIPLE_QUOTES),
    "php": Syntax(("//", "#"), _C_COMMENTS, ('"', "'")),
    "shellscript bash sh zsh fish": Syntax(
        ("#",),
        (),
        ('"', "'"),
        # `$#`, `${#x}` and `a#b` are no comments; `pattern)` in a case closes nothing.
        neutral=r"\\[\s\S]|\S#|(?m:^[ \t]*[^\s()'\"$`#]+\))",
        block_opener=r"(?:\b(?:do|then|else)|\{)$",
        end_words=frozenset({"fi", "done", "esac"}),
    ),
    "ruby crystal": Syntax(("#",), (), ('"', "'"), block_opener=_WORD_BLOCK, end_words=_END),
    "elixir julia": Syntax(("#",), (), ('"',), ('"""',), block_opener=_WORD_BLOCK, end_words=_END),
    "lua": Syntax(
        ("--",),
        (("--[[", "]]"),),
        ('"', "'"),
        block_opener=_WORD_BLOCK,
        end_words=frozenset({"end", "until"}),
    ),
    "perl r powershell makefile dockerfile cmake nix": Syntax(("#",), (), ('"',), neutral=r"\\[\s\S]|\S#"),
    "terraform hcl": Syntax(("#", "//"), _C_COMMENTS, ('"',), neutral=r"\w:"),
    "yaml dockercompose": Syntax(("#",), (), ('"',), neutral=r"[^\s\"]#", block_opener=r":$", indented_blocks=True),
    "toml": Syntax(("#",), (), ('"', "'"), TRIPLE_QUOTES),
    "ini properties dotenv": Syntax(("#", ";"), (), (), brackets=False, block_opener=r"(?!)"),
    "json jsonc json5": Syntax(("//",), _C_COMMENTS, ('"',), block_opener=r"[{\[]$"),
    "css": Syntax((), _C_COMMENTS, ('"', "'")),
    "scss less": Syntax(("//",), _C_COMMENTS, ('"', "'"), neutral=r":/{2}"),
    "html xml vue svelte astro": Syntax((), (("<!--", "-->"),), (), block_opener=r"(?:<[A-Za-z][^<>]*(?<!/)>|\{)$"),
    "sql": Syntax(("--",), _C_COMMENTS, ("'", '"'), block_opener=r"\($"),
    "haskell elm": Syntax(("--",), (("{-", "-}"),), ('"',), block_opener=r"\b(?:where|do|of|let)$"),
    "clojure lisp scheme commonlisp": Syntax((";",), (), ('"',), block_opener=r"(?!)"),
    "markdown plaintext latex tex bibtex restructuredtext asciidoc git-commit csv": PLAIN,
}
LANGUAGES: dict[str, Syntax] = {name: syntax for names, syntax in _FAMILIES.items() for name in names.split()}

_SUFFIXES = {
    "python": "py pyi pyw",
    "javascript": "js mjs cjs jsx",
    "typescript": "ts mts cts tsx",
    "cpp": "cc cxx hpp hh hxx h ino",
    "csharp": "cs",
    "kotlin": "kt kts",
    "ruby": "rb rake",
    "rust": "rs",
    "elixir": "ex exs",
    "julia": "jl",
    "haskell": "hs",
    "clojure": "clj cljs",
    "perl": "pl pm",
    "powershell": "ps1",
    "yaml": "yml",
    "terraform": "tf",
    "html": "htm xhtml svg",
    "markdown": "md mdx",
    "plaintext": "txt log",
    "latex": "sty cls",
    "restructuredtext": "rst",
    "ini": "cfg conf",
    "makefile": "mk",
}
_BY_SUFFIX = {suffix: language for language, names in _SUFFIXES.items() for suffix in names.split()}


def language_of(path: str, language: str = "") -> str:
    """The editor's language id where we know it, else what the file's name says; "" if neither helps."""
    if language in LANGUAGES:
        return language
    name = PurePosixPath(path.replace("\\", "/")).name.lower()
    ending = name.rpartition(".")[2]
    found = _BY_SUFFIX.get(ending, ending)
    return found if found in LANGUAGES else ""


def syntax_of(language: str) -> Syntax:
    return LANGUAGES.get(language, OTHER)
