"""The state of a training run on disk: written beside and renamed, hashed, the last two kept, the damaged set aside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from habitab_engine.base_files import SINGLE, ModelConfig
from habitab_engine.checkpoint import Checkpoint
from habitab_engine.errors import InputError
from habitab_engine.home import sha256_of

KEPT = 2
# A state is there when its notes are: they are written last.
NOTES, WEIGHTS = "state-*.json", ".safetensors"
PART, ASIDE = ".part", ".damaged"


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> Path:
    """Writes the state after `step` steps and forgets all but the last two; returns the file of the weights.

    Raises InputError where it cannot be written.
    """
    path = folder / f"state-{step:08d}{WEIGHTS}"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _write_tensors(path, tensors)
        about = {**notes, "step": step, "sha256": sha256_of(path)}
        _write_text(path.with_suffix(".json"), json.dumps(about, indent=1))
        for old in sorted(folder.glob(NOTES))[:-KEPT]:
            old.unlink()
            old.with_suffix(WEIGHTS).unlink(missing_ok=True)
    return path


def latest(folder: Path, progress: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The notes and tensors of the newest state that is whole, or nothing.

    One that is not is renamed, and `progress` is told so.
    """
    for path in sorted(folder.glob(NOTES), reverse=True):
        weights = path.with_suffix(WEIGHTS)
        try:
            notes = json.loads(path.read_text(encoding="utf-8"))
            if sha256_of(weights) == notes["sha256"]:
                return notes, load_file(weights)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            pass  # as damaged as one with another checksum
        _set_aside(path, weights)
        progress(f"The training state {weights.name} is damaged and was set aside; the one before it is used.")
    return None


def write_model(folder: Path, source: Checkpoint, config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Writes float32 weights with the config and the tokenizer of `source`, as `load_checkpoint` reads them.

    Raises InputError where they cannot be written.
    """
    fields = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    fields |= {"num_hidden_layers": config.layers, "dtype": "float32"}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / "tokenizer.json", folder / "tokenizer.json")
        _write_text(folder / "config.json", json.dumps(fields, indent=1) + "\n")
        _write_tensors(folder / SINGLE, tensors)


def _set_aside(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            path.replace(path.with_name(path.name + ASIDE))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    part = path.with_name(path.name + PART)
    save_file(dict(tensors), part, metadata={"format": "pt"})
    part.replace(path)


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + PART)
    part.write_text(text, encoding="utf-8")
    part.replace(path)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns a failure to write into InputError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{folder} cannot be written ({why}); make room and run the same command again.") from error
