"""One model asked at one place: what the true text costs it, and what it would have suggested instead."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from habitab_adapters.pretrain.answers import Answer, Answers
from habitab_adapters.pretrain.positions import BLOCK, NEXT_LINE, Place, Question, questions
from habitab_engine.checkpoint import RowInt8, load_checkpoint
from habitab_engine.config import EngineSettings
from habitab_engine.decode import prefill
from habitab_engine.engine import LINE_TOKENS, ROOM, Engine
from habitab_engine.families import PREFIX
from habitab_engine.likeness import similarity
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.types import CompletionRequest

THREADS = 1  # with more, each waits for the slowest where anything else runs
PREFIX_ONLY, BOTH_SIDES = "prefix", "prefix and suffix"
PATIENCE_MS = 600_000.0  # no suggestion shall end because a machine is slow


def load(base: Path | None) -> Engine:
    """A model on one thread; a path is only told to one that was trained with paths.

    Int8 rows are computed as they are served (bits per byte within 0.05 % of the plain kernels', in half the time),
    other weights with the plain kernels, which round nothing.
    """
    checkpoint = load_checkpoint(base)
    rounded = any(isinstance(tensor, RowInt8) for tensor in checkpoint.tensors.values())
    served = rounded and "fbgemm" in torch.backends.quantized.supported_engines
    engine = Engine(checkpoint, EngineSettings(threads=THREADS, kernel="int8" if served else "float32"))
    if not engine.template.fills:
        engine.template = replace(engine.template, layout=(PREFIX,))
    return engine


def ask_at(engine: Engine, place: Place, content: Sequence[str]) -> Answers:
    """All questions of a place, from the top down, so that the cache of one serves the next."""
    asked = questions(place, content)
    answers = {
        f"{question.task}, {PREFIX_ONLY}": ask(engine, place, replace(question, suffix="")) for question in asked
    }
    if engine.template.fills:
        answers |= {f"{question.task}, {BOTH_SIDES}": ask(engine, place, question) for question in asked}
    return answers


def ask(engine: Engine, place: Place, question: Question) -> Answer:
    """One question. The true text comes first: where the suggestion agrees with it, nothing is computed again."""
    request = CompletionRequest(
        document=f"{place.id} {len(question.suffix)}",  # another suffix begins the prompt anew
        path=place.change.path,
        prefix=question.prefix,
        suffix=question.suffix,
        multiline=question.task in (NEXT_LINE, BLOCK),
        max_tokens=LINE_TOKENS if question.task == NEXT_LINE else 0,
        budget_ms=PATIENCE_MS,
        sources=(),
        memory=False,
    )
    bits, size, ends = told(engine, request, question.text)
    text = suggested(engine, request, question.task)
    return Answer(bits, size, text == question.text, similarity(text, question.text), ends)


def told(engine: Engine, request: CompletionRequest, text: str) -> tuple[float, int, bool]:
    """The bits of `text` behind the cursor, its bytes, and whether the end token is the likeliest behind it.

    A token that begins with text before the cursor counts among those that agree with it, as when it is generated.
    """
    slot, tokenizer = engine.slot(request.document), engine.tokenizer
    prompt = engine.prompt(request, slot)
    first, _ = prefill(engine.model, slot, prompt.tokens, bool)
    ids, position = tokenizer.encode(prompt.healed + text)[:ROOM], len(prompt.tokens)
    slot.overwrite(position)
    rows = engine.model.verify(ids, slot.cache, position)
    slot.rest = list(ids)
    for i, row in enumerate(rows, position + 1):
        slot.learn(i, row)
    bits, size = _cost([first, *rows[:-1]], ids, prompt.healed.encode(), tokenizer)
    stops = {tokenizer.special_ids[token] for token in engine.template.stops}
    ends = size == len(text.encode()) and int((rows[-1] + engine.mask).argmax()) in stops
    return bits, size, ends


def _cost(rows: Sequence[Tensor], ids: Sequence[int], healed: bytes, tokenizer: Tokenizer) -> tuple[float, int]:
    """The bits of `ids` under the logits `[V]` before each, and the bytes that they add behind the healed ones."""
    nats, size = 0.0, -len(healed)
    for logits, token in zip(rows, ids, strict=True):
        if healed:
            allowed = torch.tensor(tokenizer.agreeing(healed))
            logits = torch.full_like(logits, -math.inf).index_copy_(0, allowed, logits[allowed])
        nats -= float(logits.log_softmax(0)[token])
        piece = tokenizer.pieces[token]
        healed, size = healed[len(piece) :], size + len(piece)
    return nats / math.log(2), size


def suggested(engine: Engine, request: CompletionRequest, task: str) -> str:
    """What the engine suggests, less the lines that the task does not ask for and blanks at their ends."""
    found = engine.complete(request, threading.Event()).suggestions
    lines = [line.rstrip() for line in found[0].text.split("\n")] if found else []
    wanted = {BLOCK: len(lines), NEXT_LINE: 2}.get(task, 1)
    return "\n".join(lines[:wanted]).rstrip()
