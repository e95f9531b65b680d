"""Every error a person can meet, in one tree; `str(error)` is one clear sentence with what to do.

HabitabError
├── InputError              a file or an argument cannot be used            (ValueError)
│   ├── NotTextError        the file is not text                            (ValueError)
│   └── PositionError       the position lies outside the file              (IndexError)
├── BaseModelError          the base model cannot be served                 (ValueError)
│   ├── MissingBaseError    a folder or a file of it is not there           (FileNotFoundError)
│   └── DamagedBaseError    a file of it is not what it should be           (ValueError)
├── AdapterError            an adapter cannot be used or written            (ValueError)
├── EngineError             the engine process cannot answer                (ConnectionError)
├── ServeError              the language server cannot start                (OSError)
├── MissingExtraError       an optional package is not installed            (ImportError)
└── Cancelled               a newer keystroke made the request pointless    (InterruptedError)
"""

from __future__ import annotations


class HabitabError(Exception):
    """The root of the tree."""


class InputError(HabitabError, ValueError):
    """A file or an argument cannot be used."""


class NotTextError(InputError):
    """The file is not text."""


class PositionError(InputError, IndexError):
    """The position lies outside the file."""


class BaseModelError(HabitabError, ValueError):
    """The base model cannot be served."""


class MissingBaseError(BaseModelError, FileNotFoundError):
    """A folder or a file of the base model is not there."""

    def __str__(self) -> str:
        return str(self.args[0])


class DamagedBaseError(BaseModelError):
    """A file of the base model is not what it should be."""


class AdapterError(HabitabError, ValueError):
    """An adapter cannot be used or written."""


class EngineError(HabitabError, ConnectionError):
    """The engine process cannot answer."""


class ServeError(HabitabError, OSError):
    """The language server cannot start."""


class MissingExtraError(HabitabError, ImportError):
    """An optional package is not installed."""


class Cancelled(HabitabError, InterruptedError):  # noqa: N818 (an event, not a fault)
    """A newer keystroke made the request pointless."""
