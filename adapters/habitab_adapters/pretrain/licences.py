"""What a package says of its licence, as an SPDX expression of permissive licences only, or nothing; pure.

Sources: SPDX 2.3 annex D (expressions); the core metadata of Python packages (PEP 639, and classifiers before it);
npm's package.json; Debian's machine-readable copyright file (DEP-5, format 1.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import HeaderParser
from itertools import accumulate

_LONGEST = 300  # characters of an expression; a longer one is a text
_FILLERS = frozenset({"the", "a", "license", "licence", "licensed", "under", "version", "software", "osi", "approved"})
_SPELLINGS = {
    "MIT": "mit|mit expat|expat|mit x11|x11 mit|expat mit",
    "MIT-0": "mit 0|mit no attribution mit 0|mit no attribution",
    "BSD-2-Clause": "bsd 2 clause|simplified bsd|bsd 2 clause simplified|freebsd|2 clause bsd simplified",
    "BSD-3-Clause": "bsd|bsd 3 clause|new bsd|modified bsd|bsd 3 clause new or revised|bsd 3 clause new|bsd 3|"
    "revised bsd|new bsd 3 clause|bsd style",
    "Apache-2.0": "apache 2.0|apache 2|apache v2|apache v2.0|apache|asl 2.0|apache 2.0 apache2|apache2|apache2.0|"
    "al 2.0",
    "ISC": "isc|isc iscl|isc l",
    "0BSD": "0bsd|zero clause bsd|bsd zero clause 0bsd|zero clause bsd 0bsd",
    "Zlib": "zlib|zlib libpng|zlib zlib libpng",
    "Unlicense": "unlicense",
    "CC0-1.0": "cc0 1.0|cc0|cc0 1.0 universal|cc0 1.0 universal cc0 1.0 public domain dedication",
    "PSF-2.0": "psf 2.0|psf|psfl|python foundation",
    "BlueOak-1.0.0": "blueoak 1.0.0|blue oak model 1.0.0",
    "BSL-1.0": "bsl 1.0|boost 1.0|boost 1.0 bsl 1.0",
    "Apache-2.0 WITH LLVM-exception": "apache 2.0 with llvm exception",
}
_TEXTS = {
    "Apache-2.0": r"^\s*Apache License\s+Version 2\.0, January 2004",
    "MIT": r"Permission is hereby granted, free of charge, to any person obtaining a copy.{1,900}"
    r"The above copyright notice and this permission notice",
    "BSD-3-Clause": r"Redistribution and use in source and binary forms.{1,900}"
    r"(?:Neither the names? of|The names? of the).{1,400}(?:endorse or promote)",
    "BSD-2-Clause": r"Redistribution and use in source and binary forms, with or without\s+modification, are permitted",
    "ISC": r"Permission to use, copy, modify, and(?:/or)? distribute this software for any\s+purpose "
    r"with or without fee is hereby granted, provided that the above",
    "Unlicense": r"This is free and unencumbered software released into the public domain",
}
_COPYLEFT = re.compile(
    r"\b(?:A|L)?GPL\b|GNU (?:Lesser |Library |Affero )?General\s+Public|Mozilla Public|SSPL|"
    r"Business Source License|Commons Clause|Creative Commons Attribution|NonCommercial",
    re.IGNORECASE,
)
_HEADER = 3_000  # characters in which a file says that it has another licence than its package


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+(?:\.[0-9]+)*", text.lower())) - _FILLERS


_BY_WORDS = {_words(one): spdx for spdx, names in _SPELLINGS.items() for one in names.split("|")}


def permissive(expression: str) -> str:
    """The SPDX expression of what `expression` permits, "" where it is not permissive or not understood.

    Of alternatives the permissive ones are kept; where several licences hold at once, each must be.
    """
    text = expression.strip()
    if not text or len(text) > _LONGEST or not _is_balanced(text):
        return ""
    if known := _BY_WORDS.get(_words(text)):
        return known
    if variant := re.fullmatch(r"bsd-([23])-clause-[\w-]+", text, re.IGNORECASE):  # Debian names whose text it is
        return f"BSD-{variant[1]}-Clause"
    if len(parts := _split(text, r"\bor\b|/")) > 1:
        return " OR ".join(dict.fromkeys(filter(None, map(permissive, parts))))
    if len(parts := _split(text, r",?\s*\band\b|,|;")) > 1:
        return _all_of(map(permissive, parts))
    return permissive(text[1:-1]) if text[0] == "(" and text[-1] == ")" else ""


def _is_balanced(text: str) -> bool:
    depths = list(accumulate((mark == "(") - (mark == ")") for mark in text))
    return min(depths) >= 0 and depths[-1] == 0


def _all_of(found: Iterable[str]) -> str:
    kept = list(dict.fromkeys(found))
    if not kept or not all(kept):
        return ""
    return kept[0] if len(kept) == 1 else " AND ".join(f"({one})" if " OR " in one else one for one in kept)


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand in no brackets."""
    parts, depth, start = [], 0, 0
    for mark in re.finditer(rf"[()]|{separator}", text, re.IGNORECASE):
        if mark.group() in "()":
            depth += 1 if mark.group() == "(" else -1
        elif depth == 0:
            parts.append(text[start : mark.start()])
            start = mark.end()
    return [*parts, text[start:]]


def of_text(text: str) -> str:
    """The licence whose words `text` has, as a LICENSE file does; "" where it is unknown or there is another, too."""
    if _COPYLEFT.search(text):
        return ""
    flat = re.sub(r"\s+", " ", text[:20_000])
    return next((spdx for spdx, words in _TEXTS.items() if re.search(words, flat, re.IGNORECASE | re.DOTALL)), "")


def is_copyleft(text: str) -> bool:
    """Whether a source file's head names a licence that is not permissive, whatever its package says."""
    return _COPYLEFT.search(text, 0, _HEADER) is not None


def of_pypi(metadata: str, texts: Iterable[str]) -> str:
    """From the core metadata of a Python package, or where they are silent from its licence files."""
    fields = HeaderParser().parsestr(metadata)
    if stated := fields.get("License-Expression"):
        return permissive(str(stated))
    classifiers = [str(value).split("::") for value in fields.get_all("Classifier", [])]
    named = [parts[-1] for parts in classifiers if parts[0].strip() == "License" and len(parts) > 2]
    if named:
        return _all_of(map(permissive, named))
    stated = str(fields.get("License", ""))
    return permissive(stated.strip().partition("\n")[0]) or of_text(stated) or _all_of(map(of_text, texts))


def of_npm(package_json: str) -> str:
    """From package.json: a string, or the objects of old packages."""
    try:
        fields = json.loads(package_json)
        stated = fields.get("license") or fields.get("licenses") or ""
        several = stated if isinstance(stated, list) else [stated]
        return " OR ".join(filter(None, (permissive(_name(one)) for one in several)))
    except (ValueError, AttributeError, RecursionError):
        return ""


def _name(stated: object) -> str:
    found = stated.get("type", "") if isinstance(stated, dict) else stated
    return found if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True)
class Copyright:
    """A DEP-5 file: (the paths, licence) of each paragraph; the last that fits a path decides."""

    paragraphs: tuple[tuple[re.Pattern[str], str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Copyright:
        """Without paragraphs, which permits nothing, where the text is not in DEP-5's format."""
        if not re.match(r"Format:\s*\S*copyright-format|Format-Specification:", text, re.IGNORECASE):
            return cls()
        stanzas = [HeaderParser().parsestr(part) for part in re.split(r"\n[ \t]*\n", text)]
        return cls(
            tuple(
                (_pattern(str(stanza["Files"])), permissive(str(stanza.get("License", "")).partition("\n")[0]))
                for stanza in stanzas
                if stanza.get("Files")
            )
        )

    def licence_of(self, path: str) -> str:
        """The licence of a file of the source package, "" where it is not permissive."""
        return next((licence for paths, licence in reversed(self.paragraphs) if paths.fullmatch(path)), "")

    def of_all(self) -> str:
        """What holds for every file but Debian's own: a binary package has other paths than its source."""
        ours = [licence for paths, licence in self.paragraphs if not paths.fullmatch("debian/rules")]
        upstream = [licence for paths, licence in self.paragraphs if paths.fullmatch("\0anything")]
        return _all_of([*upstream, *(licence for licence in ours if licence not in upstream)])


def _pattern(globs: str) -> re.Pattern[str]:
    """DEP-5: `*` stands for any characters, slashes too, and `?` for one."""
    parts = [re.escape(glob.removeprefix("./")).replace(r"\*", ".*").replace(r"\?", ".") for glob in globs.split()]
    return re.compile("|".join(parts), re.DOTALL)
