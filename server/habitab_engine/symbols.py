"""What a file defines and what it imports, and whether it can be parsed, read with tree-sitter; pure.

Only the outside of a file is walked for definitions: its top level and the inside of its classes, no function's body.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

from tree_sitter import Language, Node, Parser

# Longer texts are not parsed: balancing the finished tree is the one step that cannot be interrupted.
MOST_CHARACTERS = 400_000
# Lines of a head that has no body to end it, such as a struct's.
_MOST_HEAD = 12
# Reports of the parser's progress between two calls of `breathe`: about a millisecond.
_REPORTS = 32
# Reports after which a parse is given up; ordinary code of `MOST_CHARACTERS` needs a twentieth.
_MOST_REPORTS = 100_000
_READ = 32_768
_reading = threading.local()


@dataclass(frozen=True, slots=True)
class Definition:
    """A name and where it is defined, in lines from 0, ends included.

    `first` to `head` are the lines of its head (a signature), `last` ends its body; `parent` is the index of the
    class around it, or -1.
    """

    name: str
    first: int
    head: int
    last: int
    parent: int = -1


@dataclass(frozen=True, slots=True)
class Import:
    """A name that another file defines.

    `bound` is what this file calls it, `name` what it is called at home: "" for the module itself, "*" for all
    names. `module` are the parts of the module's path; `up` counts the folders upwards from this file, 1 being its
    own, 0 for a path that begins elsewhere.
    """

    bound: str
    name: str
    module: tuple[str, ...]
    up: int = 0


@dataclass(frozen=True, slots=True)
class Outline:
    """The outside of a file, in reading order."""

    definitions: tuple[Definition, ...] = ()
    imports: tuple[Import, ...] = ()


# The text of a node, "" for None.
_Text = Callable[[Node | None], str]


@dataclass(frozen=True, slots=True)
class _Grammar:
    """What to look for in one language; all are names of its grammar's nodes.

    `defines` maps a definition to the field or the child type that holds its name; `opens` are the definitions
    whose inside is walked, `through` are nodes that are walked as if they were not there.
    """

    module: str
    function: str
    defines: dict[str, str]
    opens: frozenset[str]
    through: frozenset[str]
    imports: dict[str, Callable[[Node, _Text], Iterable[Import]]]


class _GivenUpError(Exception):
    """The text takes too long to parse."""


def outline(text: str, language: str, breathe: Callable[[], object] = bool) -> Outline:
    """The outline of `text`; empty for a language without a grammar, and for a text too long or too odd to parse.

    `breathe` is called every millisecond or so while the text is parsed; it may block.
    """
    grammar = _GRAMMARS.get(language)
    if grammar is None or len(text) > MOST_CHARACTERS:
        return Outline()
    data = text.encode()
    try:
        root = _parse(data, grammar, breathe)
    except _GivenUpError:
        return Outline()

    def written(node: Node | None) -> str:
        return data[node.start_byte : node.end_byte].decode(errors="replace") if node is not None else ""

    definitions: list[Definition] = []
    imports: list[Import] = []
    for count, (node, parent) in enumerate(_outside(root, grammar, definitions)):
        if count % _REPORTS == 0:
            breathe()
        if node.type in grammar.imports and (named := list(grammar.imports[node.type](node, written))):
            imports += named
        elif (found := _definition(node, written, grammar, parent)) is not None:
            definitions.append(found)
    return Outline(tuple(definitions), tuple(imports))


def faults(text: str, language: str) -> int:
    """How many places of `text` cannot be parsed; none for a language without a grammar, and for a text too long or too
    odd to parse."""
    grammar = _GRAMMARS.get(language)
    if grammar is None or len(text) > MOST_CHARACTERS:
        return 0
    try:
        return _faults(_parse(text.encode(), grammar, bool))
    except _GivenUpError:
        return 0


def _faults(root: Node) -> int:
    """Nodes that stand for what is wrong or missing; what is inside of one counts with it."""
    found, stack = 0, [root]
    while stack:
        node = stack.pop()
        if node.is_error or node.is_missing:
            found += 1
        elif node.has_error:
            stack += node.children
    return found


def has_grammar(language: str) -> bool:
    return language in _GRAMMARS


@lru_cache(maxsize=16)
def _language(module: str, function: str) -> Language:
    return Language(getattr(import_module(module), function)())


def _parse(data: bytes, grammar: _Grammar, breathe: Callable[[], object]) -> Node:
    """The root of the tree. The parser holds the GIL, but not while it reports its progress."""
    reports = 0

    def progress(_offset: int, _failed: bool) -> bool:
        nonlocal reports
        reports += 1
        if reports % _REPORTS == 0:
            breathe()
        return reports > _MOST_REPORTS

    # The binding keeps a reference to whatever is read and never gives it back, so it gets one object again and again.
    window = _reading.__dict__.setdefault("window", bytearray())

    def read(offset: int, _point: object) -> bytearray:
        window[:] = data[offset : offset + _READ]
        return window

    try:
        tree = Parser(_language(grammar.module, grammar.function)).parse(read, progress_callback=progress)
    except ValueError as stopped:  # what a parse that `progress` ended raises
        raise _GivenUpError from stopped
    return tree.root_node


def _outside(root: Node, grammar: _Grammar, definitions: list[Definition]) -> Iterator[tuple[Node, int]]:
    """Nodes of the outside with the index of the class around them.

    The caller appends a class to `definitions` before it asks for the next node, which then is in that class.
    """
    stack = [(node, -1) for node in reversed(root.named_children)]
    while stack:
        node, parent = stack.pop()
        if node.type in grammar.through:
            stack += [(child, parent) for child in reversed(node.named_children)]
            continue
        known = len(definitions)
        yield node, parent
        body = node.child_by_field_name("body")
        if node.type in grammar.opens and body is not None and len(definitions) > known:
            stack += [(child, known) for child in reversed(body.named_children)]


def _definition(node: Node, written: _Text, grammar: _Grammar, parent: int) -> Definition | None:
    field = grammar.defines.get(node.type)
    name = _named(node, field) if field else None
    if name is None:
        return None
    first, end = node.start_point.row, node.end_point
    last = end.row - (end.column == 0 and end.row > first)  # a C macro ends where the next line begins
    return Definition(written(name), first, _head(node, first, last), last, parent)


def _named(node: Node, field: str) -> Node | None:
    """The node with the name: in `field`, and within declarators (C's functions, assignments) further down."""
    found = node.child_by_field_name(field)
    if found is None:
        found = next((child for child in node.named_children if child.type == field), None)
    for _ in range(8):
        if found is None or not found.type.endswith(("declarator", "assignment", "generic_type")):
            break
        found = next(filter(None, map(found.child_by_field_name, ("declarator", "left", "name", "type"))), None)
    return found if found is not None and found.type.endswith("identifier") else None


def _head(node: Node, first: int, last: int) -> int:
    """The last line of a definition's head: that of what stands before its body."""
    before = node.child_by_field_name("body")
    while before is not None:
        before = before.prev_sibling
        if before is not None and before.type != "comment":
            last = before.end_point.row
            break
    return min(last, first + _MOST_HEAD - 1)


# ---- imports of each language ----


def _aliased(node: Node, text: _Text) -> tuple[str, str]:
    """The name and what it is bound to."""
    name = text(node.child_by_field_name("name")) or text(node)
    return name, text(node.child_by_field_name("alias")) or name


def _python_import(node: Node, text: _Text) -> Iterator[Import]:
    for child in node.named_children:
        name, bound = _aliased(child, text)
        yield Import(bound, "", tuple(name.split(".")))


def _python_from(node: Node, text: _Text) -> Iterator[Import]:
    path = text(node.child_by_field_name("module_name"))
    module = path.lstrip(".")
    parts, up = tuple(filter(None, module.split("."))), len(path) - len(module)
    for child in node.children_by_field_name("name"):
        name, bound = _aliased(child, text)
        yield Import(bound, name, parts, up)
    if any(child.type == "wildcard_import" for child in node.named_children):
        yield Import("*", "*", parts, up)


def _path_parts(path: str) -> tuple[tuple[str, ...], int]:
    """A quoted path's parts, its last without an ending, and how many folders upwards it begins."""
    parts = path.strip("\"'`<>").split("/")
    up = 1 if parts[0] == "." else parts.count("..") + 1 if parts[0] == ".." else 0
    parts = [part for part in parts if part not in ("", ".", "..", "~", "@")]
    if parts:
        parts[-1] = re.sub(r"\.(?:[cm]?[jt]sx?|h|hpp|hh|c)$", "", parts[-1])
    return tuple(parts), up


def _script_import(node: Node, text: _Text) -> Iterator[Import]:
    parts, up = _path_parts(text(node.child_by_field_name("source")))
    stack = [child for child in node.named_children if child.type == "import_clause"]
    while stack:
        child = stack.pop()
        if child.type == "import_specifier":
            name, bound = _aliased(child, text)
            yield Import(bound, name, parts, up)
        elif child.type == "namespace_import":
            yield Import(text(child.named_children[-1]) if child.named_children else "", "", parts, up)
        elif child.type == "identifier":
            yield Import(text(child), text(child), parts, up)
        else:
            stack += child.named_children


def _script_require(node: Node, text: _Text) -> Iterator[Import]:
    """`const x = require("y")`, also with `{ a, b }` at its left."""
    for child in node.named_children:
        value, left = child.child_by_field_name("value"), child.child_by_field_name("name")
        called = re.fullmatch(r"require\(\s*([\"'][^\"']+[\"'])\s*\)", text(value)) if left is not None else None
        if called is None or left is None:
            continue
        parts, up = _path_parts(called[1])
        if left.type == "identifier":
            yield Import(text(left), "", parts, up)
        else:
            yield from (Import(name, name, parts, up) for name in map(text, left.named_children))


def _go_import(node: Node, text: _Text) -> Iterator[Import]:
    parts, _ = _path_parts(text(node.child_by_field_name("path")))
    if parts:
        yield Import(text(node.child_by_field_name("name")) or parts[-1], "", parts)


def _rust_use(node: Node, text: _Text) -> Iterator[Import]:
    for path in _rust_paths(re.sub(r"\s+", " ", text(node.child_by_field_name("argument")))):
        target, _, alias = path.partition(" as ")
        parts = tuple(part.strip() for part in target.split("::"))
        *module, name = [part for part in parts if part not in ("crate", "self", "super", "")] or [""]
        yield Import(alias.strip() or name, name, tuple(module))


def _rust_paths(text: str, depth: int = 0) -> Iterator[str]:
    """`a::{b, c::{d}}` as `a::b`, `a::c::d`."""
    head, brace, rest = text.partition("{")
    if not brace or depth > 8:
        yield text.strip()
        return
    inside = rest[: rest.rfind("}")] if "}" in rest else rest
    for part in _split_at_commas(inside):
        yield from (head.strip() + path for path in _rust_paths(part, depth + 1))


def _split_at_commas(text: str) -> Iterator[str]:
    """The parts between the commas that stand in no braces."""
    level = start = 0
    for i, character in enumerate(text + ","):
        level += (character == "{") - (character == "}")
        if character == "," and level == 0:
            if text[start:i].strip():
                yield text[start:i]
            start = i + 1


def _java_import(node: Node, text: _Text) -> Iterator[Import]:
    path = re.sub(r"^import\s+(?:static\s+)?|[\s;]+", "", text(node))
    *module, name = path.split(".")
    yield Import(name, name, tuple(module))


def _c_include(node: Node, text: _Text) -> Iterator[Import]:
    path = node.child_by_field_name("path")
    if path is not None and path.type == "string_literal":
        yield Import("*", "*", _path_parts(text(path))[0])


# ---- grammars ----

_PYTHON = _Grammar(
    "tree_sitter_python",
    "language",
    {"function_definition": "name", "class_definition": "name", "expression_statement": "assignment"},
    frozenset({"class_definition"}),
    frozenset(
        {"decorated_definition", "if_statement", "elif_clause", "else_clause", "try_statement", "except_clause"}
        | {"finally_clause", "with_statement", "block"}
    ),
    {"import_statement": _python_import, "import_from_statement": _python_from},
)
_SCRIPT_DEFINES = {
    **dict.fromkeys(("function_declaration", "generator_function_declaration", "class_declaration"), "name"),
    **dict.fromkeys(("method_definition", "method_signature", "property_signature", "function_signature"), "name"),
    **dict.fromkeys(("abstract_class_declaration", "abstract_method_signature", "public_field_definition"), "name"),
    **dict.fromkeys(("interface_declaration", "type_alias_declaration", "enum_declaration"), "name"),
    "field_definition": "property",
    "lexical_declaration": "variable_declarator",
    "variable_declaration": "variable_declarator",
}


def _script(module: str, function: str) -> _Grammar:
    return _Grammar(
        module,
        function,
        _SCRIPT_DEFINES,
        frozenset({"class_declaration", "abstract_class_declaration", "interface_declaration"}),
        frozenset(
            {"export_statement", "expression_statement", "ambient_declaration", "internal_module", "module"}
            | {"statement_block"}
        ),
        {
            "import_statement": _script_import,
            **dict.fromkeys(("lexical_declaration", "variable_declaration"), _script_require),
        },
    )


_JAVASCRIPT = _script("tree_sitter_javascript", "language")
_GO = _Grammar(
    "tree_sitter_go",
    "language",
    {
        **dict.fromkeys(("function_declaration", "method_declaration", "type_spec"), "name"),
        **dict.fromkeys(("type_alias", "const_spec", "var_spec"), "name"),
    },
    frozenset(),
    frozenset(
        {"type_declaration", "const_declaration", "var_declaration", "var_spec_list"}
        | {"import_declaration", "import_spec_list"}
    ),
    {"import_spec": _go_import},
)
_RUST = _Grammar(
    "tree_sitter_rust",
    "language",
    {
        **dict.fromkeys(("function_item", "function_signature_item", "struct_item", "enum_item"), "name"),
        **dict.fromkeys(("trait_item", "type_item", "const_item", "static_item", "macro_definition"), "name"),
        "impl_item": "type",
    },
    frozenset({"trait_item", "impl_item"}),
    frozenset({"mod_item", "declaration_list"}),
    {"use_declaration": _rust_use},
)
_JAVA = _Grammar(
    "tree_sitter_java",
    "language",
    {
        **dict.fromkeys(("class_declaration", "interface_declaration", "enum_declaration"), "name"),
        **dict.fromkeys(("record_declaration", "method_declaration", "constructor_declaration"), "name"),
        "field_declaration": "declarator",
    },
    frozenset({"class_declaration", "interface_declaration", "record_declaration", "enum_declaration"}),
    frozenset({"enum_body_declarations"}),
    {"import_declaration": _java_import},
)
_C = _Grammar(
    "tree_sitter_c",
    "language",
    {
        **dict.fromkeys(("function_definition", "declaration", "type_definition"), "declarator"),
        **dict.fromkeys(("struct_specifier", "union_specifier", "enum_specifier"), "name"),
        **dict.fromkeys(("preproc_def", "preproc_function_def"), "name"),
    },
    frozenset(),
    frozenset(
        {"preproc_ifdef", "preproc_if", "preproc_else", "preproc_elif", "linkage_specification", "declaration_list"}
    ),
    {"preproc_include": _c_include},
)
# By language id. Headers count as C++ elsewhere, and their outside is C's for the most part.
_GRAMMARS: dict[str, _Grammar] = {
    "python": _PYTHON,
    "javascript": _JAVASCRIPT,
    "javascriptreact": _JAVASCRIPT,
    "typescript": _script("tree_sitter_typescript", "language_typescript"),
    "typescriptreact": _script("tree_sitter_typescript", "language_tsx"),
    "go": _GO,
    "rust": _RUST,
    "java": _JAVA,
    "c": _C,
    "cpp": _C,
}
