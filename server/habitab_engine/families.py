"""How each family of models wants a fill-in-the-middle prompt; pure.

A prompt is a sequence of segments: special tokens, which go in by id, and texts, each of which is encoded on
its own without any token added. Typing changes the prefix alone: where a family puts it last (`cursor_last`),
everything before it stays as it was, and so does the KV cache.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from habitab_engine.types import Snippet

SNIPPETS, PROJECT, PATH, PREFIX, SUFFIX = "{snippets}", "{project}", "{path}", "{prefix}", "{suffix}"
PLACES = (SNIPPETS, PROJECT, PATH, PREFIX, SUFFIX)


@dataclass(frozen=True, slots=True)
class Special:
    """One special token by its name."""

    token: str


@dataclass(frozen=True, slots=True)
class Text:
    """Text to encode; `cursor` marks the prefix, which ends at the cursor."""

    text: str
    cursor: bool = False


@dataclass(frozen=True, slots=True)
class FimTemplate:
    """The prompt of one family.

    `layout` is the order of the parts: places in braces, all else are special tokens. `bos`, if there is one,
    comes first. `path_line` writes a path (`%s`) above its text, a snippet's after `snippet_token` if there
    is one. `stops` are the tokens that end a completion.
    """

    name: str
    layout: tuple[str, ...]
    stops: tuple[str, ...]
    path_line: str
    snippet_token: str = ""
    bos: str = ""

    @property
    def cursor_last(self) -> bool:
        """True where the prompt ends with the prefix, so that its last tokens can be healed."""
        return self.layout[-1] == PREFIX

    @property
    def fills(self) -> bool:
        """False where the model cannot see what follows the cursor."""
        return SUFFIX in self.layout

    @property
    def required(self) -> frozenset[str]:
        """The special tokens that a tokenizer must have for this template."""
        return frozenset(part for part in (*self.layout, self.snippet_token) if part and part not in PLACES)

    @property
    def tokens(self) -> list[str]:
        """Every special token the template knows, stops included."""
        return sorted(self.required | set(self.stops) | ({self.bos} - {""}))


HABITAB = FimTemplate(
    name="habitab",
    layout=(SNIPPETS, "<filename>", PATH, "<fim_suffix>", SUFFIX, "<fim_middle>", PREFIX),
    stops=("<|endoftext|>",),
    path_line="%s\n",
    snippet_token="<file_sep>",
)
# Qwen's repository form: the name of the project, then files, the last of them with the gap. No BOS.
QWEN_CODER = FimTemplate(
    name="qwen2.5-coder",
    layout=(
        "<|repo_name|>",
        PROJECT,
        SNIPPETS,
        "<|file_sep|>",
        PATH,
        "<|fim_prefix|>",
        PREFIX,
        "<|fim_suffix|>",
        SUFFIX,
        "<|fim_middle|>",
    ),
    stops=("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|im_end|>"),
    path_line="%s\n",
    snippet_token="<|file_sep|>",
)
# The mark at the front of these tokens is U+2581, SentencePiece's blank. The blank that opens the text is the
# one SentencePiece puts before the prefix, and not before the suffix.
CODE_LLAMA = FimTemplate(
    name="codellama",
    layout=("▁<PRE>", SNIPPETS, PATH, PREFIX, "▁<SUF>", SUFFIX, "▁<MID>"),
    stops=("▁<EOT>", "</s>"),
    path_line=" # %s\n",
    bos="<s>",
)
# The bars of these tokens are U+FF5C and their blanks U+2581. Files are joined as "#path" and their text.
DEEPSEEK_CODER = FimTemplate(
    name="deepseek-coder",
    layout=("<｜fim▁begin｜>", SNIPPETS, PATH, PREFIX, "<｜fim▁hole｜>", SUFFIX, "<｜fim▁end｜>"),
    stops=("<｜end▁of▁sentence｜>", "<|EOT|>"),
    path_line="#%s\n",
    bos="<｜begin▁of▁sentence｜>",
)
PLAIN = FimTemplate(
    name="plain",
    layout=(SNIPPETS, PATH, PREFIX),
    stops=("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<｜end▁of▁sentence｜>"),
    path_line="# %s\n",
)
FILLING = (HABITAB, QWEN_CODER, CODE_LLAMA, DEEPSEEK_CODER)
PLAIN_BOS = ("<s>", "<|begin_of_text|>", "<bos>", "<｜begin▁of▁sentence｜>")


def detect(special_tokens: Collection[str]) -> FimTemplate:
    """The template for a tokenizer with these tokens (or its whole vocabulary), less what it has not."""
    known = frozenset(special_tokens)
    template = next((t for t in FILLING if t.required <= known), PLAIN)
    bos = (template.bos,) if template is not PLAIN else PLAIN_BOS
    return replace(
        template,
        stops=tuple(token for token in template.stops if token in known),
        bos=next((token for token in bos if token in known), ""),
    )


def segments(
    template: FimTemplate, path: str, prefix: str, suffix: str, snippets: Sequence[Snippet] = ()
) -> list[Special | Text]:
    """The prompt in order; texts may be empty, and exactly one has `cursor`."""
    parts: list[Special | Text] = [Special(template.bos)] if template.bos else []
    for part in template.layout:
        parts += _part(template, part, path, prefix, suffix, snippets)
    return parts


def _part(
    template: FimTemplate, part: str, path: str, prefix: str, suffix: str, snippets: Sequence[Snippet]
) -> Iterator[Special | Text]:
    match part:
        case "{snippets}":
            for snippet in snippets:
                yield from snippet_segments(template, snippet)
        case "{project}":
            yield Text("project\n")
        case "{path}":
            yield Text(template.path_line % path)
        case "{prefix}":
            yield Text(prefix, cursor=True)
        case "{suffix}":
            yield Text(suffix)
        case token:
            yield Special(token)


def snippet_segments(template: FimTemplate, snippet: Snippet) -> list[Special | Text]:
    """One piece of another file, ending with a newline."""
    text = Text(template.path_line % snippet.path + snippet.text.removesuffix("\n") + "\n")
    return [Special(template.snippet_token), text] if template.snippet_token else [text]
