"""`Engine.complete`: one cursor in, suggestions out. The steps stand in reading order."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch

from habitab_engine import gate, postprocess
from habitab_engine.adapters import Worn
from habitab_engine.base_files import load_vocabulary
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.config import EngineSettings, thread_count
from habitab_engine.copying import Copy, copied, own_probability, weighed
from habitab_engine.decode import (
    CHUNK,
    Flag,
    Generated,
    Sampling,
    Task,
    complete,
    decode_one_token,
    extend,
    generate,
    prefill,
)
from habitab_engine.families import detect
from habitab_engine.kernels import choose
from habitab_engine.kv_cache import KVCaches, Slot, common_prefix
from habitab_engine.memory import Memory
from habitab_engine.merging import with_active, with_version
from habitab_engine.model import Model
from habitab_engine.prompt import Budget, Prompt, build
from habitab_engine.recall import Feed, Recall, recall_at
from habitab_engine.stopping import Stop, first_stop
from habitab_engine.surroundings import Surroundings
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.trim import trim
from habitab_engine.types import Completion, CompletionRequest, Folder, OpenText, Suggestion
from habitab_engine.workspaces import Workspaces

SLOTS = 3
WARM_UP_TOKENS = 3
PROMPT_TOKENS = 1024
LINE_TOKENS, BLOCK_TOKENS = 48, 96
ROOM = 192  # positions of a KV cache behind the prompt: no suggestion is longer
LEAST_PROBABILITY = 0.1  # of the first token of a word; below it the text ends there
SURE = 0.85  # mean probability of a line's tokens from which on the next line is written too
# Shares of the time budget after which no further line is begun: a person who asked for none should not wait for it.
LINES_WANTED, LINES_POSSIBLE = 0.075, 0.025
TEMPERATURE, WARMER = 0.8, 0.1  # of the first alternative, and more for each try
# Above the cursor, that a copy does not repeat: of copies trusted with 0.2 or more in nine histories those of the two
# lines above were right 4 times of 161, where 64 were foreseen, those of lines 3 to 12 above 441 times of 723 (388).
NEAR_LINES = 2
MOST_PAUSE = 1.0  # seconds that what works beside waits for a completion
SPENT = 1_000  # requests back of which it is known what they spent
TRIES = 4  # samples drawn for each alternative asked for, as some are alike
MOST_MISSING = 64  # tokens that a cache filled beside may lack: what is typed meanwhile


@dataclass(slots=True)
class Prepared:
    """What takes an engine's place in one step: the network with the adapter `version` ("" for none), and the cache of
    the document used last."""

    version: str
    model: Model
    document: str = ""
    slot: Slot | None = None


class Engine:
    """The base model with everything around it that a completion needs.

    Not thread-safe: one thread owns it. Another may `prepare` what takes its network's place, and set `worn`.
    """

    def __init__(self, checkpoint: Checkpoint, settings: EngineSettings) -> None:
        self._threads = thread_count(settings)
        torch.set_num_threads(self._threads)
        vocabulary = load_vocabulary(checkpoint.folder, checkpoint.config)
        self.base_id, self._folder, self.worn = checkpoint.base_id, checkpoint.folder, Worn()
        self.budget = Budget.of(min(PROMPT_TOKENS, checkpoint.config.max_positions - ROOM))
        self.template = detect(vocabulary)
        self.tokenizer = Tokenizer(checkpoint.folder, self.template.tokens)
        self.model = Model(checkpoint, choose(settings.kernel))
        self._stops = frozenset(vocabulary[token] for token in self.template.stops)
        silent = {i for i, piece in enumerate(self.tokenizer.pieces) if not piece}  # special and unused ids
        silent |= set(range(len(self.tokenizer), checkpoint.config.vocab))
        self.mask = _mask(checkpoint.config.vocab, silent - self._stops)
        self.first_mask = _mask(checkpoint.config.vocab, silent | self._stops)
        self._totals: Counter[str] = Counter()
        self._caches = KVCaches(lambda: self._new_cache(self.model), SLOTS)
        self._spent: dict[str, deque[float]] = {name: deque(maxlen=SPENT) for name in ("context", "memory", "opening")}
        self._idle = threading.Event()
        self._idle.set()
        self._memory = Memory(self.tokenizer.encode, checkpoint.config.vocab, self.give_way)
        self._feed = Feed(self._memory)
        self._workspaces = Workspaces(self.give_way, self._feed.add, self._feed.remove)
        self._workspaces.open("")  # for documents of no folder
        _warm_up(self.model, bool)
        self.tokenizer.agreeing(b" ")

    @classmethod
    def load(cls, settings: EngineSettings, adapters: Path | None = None) -> Engine:
        """Read the base model, and the active one of the `adapters`, and get ready.

        Raises BaseModelError and its kin; an adapter that cannot be used is left out, and `worn` says why.
        """
        checkpoint, worn = load_checkpoint(Path(settings.base) if settings.base else None), Worn()
        if adapters is not None:
            checkpoint, worn = with_active(checkpoint, adapters)
        engine = cls(checkpoint, settings)
        engine.worn = worn
        trim()
        return engine

    def complete(self, request: CompletionRequest, stop: threading.Event) -> Completion:
        """The suggestions for one cursor, best first. Raises Cancelled once `stop` is set."""
        with self._at_work():
            return self._complete(request, stop)

    def _complete(self, request: CompletionRequest, stop: threading.Event) -> Completion:
        began = time.perf_counter()
        slot = self.slot(request.document)
        prompt = self.prompt(request, slot)
        logits, reused = prefill(self.model, slot, prompt.tokens, stop.is_set)
        wanted = gate.wants_multiline(request) if request.multiline is None else request.multiline
        around = Surroundings.of(request, wanted is not False)
        task = self._task(request, prompt, around, wanted)
        if request.memory:
            recall = self.recall(request, prompt, matches=False)
            task = replace(task, recall=recall, copy=self._copy(request, prompt, around))
        runs = self._runs(request.count, slot, prompt, logits, task, stop.is_set)
        kept, tokens, reason = self._cleaned(runs, request, prompt, around)
        self._totals.update(completions=1, prompt_tokens=len(prompt.tokens), reused_tokens=reused, tokens=tokens)
        return Completion(
            suggestions=tuple(kept),
            reason=reason,
            latency_ms=(time.perf_counter() - began) * 1000,
            prompt_tokens=len(prompt.tokens),
            reused_tokens=reused,
            tokens=tokens,
            adapter=self.worn.version,
            snippets=request.snippets or slot.snippets,
        )

    def prefill(self, request: CompletionRequest, stop: threading.Event) -> int:
        """Warm the document's KV cache; return the number of tokens it had to compute. Raises Cancelled."""
        with self._at_work():
            slot = self.slot(request.document)
            prompt = self.prompt(request, slot)
            _, reused = prefill(self.model, slot, prompt.tokens, stop.is_set)
            return len(prompt.tokens) - reused

    def prepare(self, adapters: Path, version: str, pause: Callable[[], None]) -> Prepared:
        """The network with an adapter of the folder `adapters` ("": with none), to be filled and exchanged.

        For a thread beside; `pause` is called between its steps and may block. Raises AdapterError for an adapter that
        cannot be used, BaseModelError where the base is not there any more.
        """
        torch.set_num_threads(1)  # several that wait for each other would take the completions' cores
        checkpoint = load_checkpoint(self._folder)
        if version:
            checkpoint = with_version(checkpoint, adapters, version, pause)
        model = Model(checkpoint, self.model.kernels, self._threads, pause)
        _warm_up(model, _never(pause))
        return Prepared(version, model)

    def fill(self, prepared: Prepared, pause: Callable[[], None]) -> bool:
        """Fill the cache of the document used last, and say whether that was enough: another may be in use by now.

        For a thread beside, as `prepare`.
        """
        document, slot = self._caches.latest or ("", None)
        if tokens := list(slot.tokens) if slot else []:
            if prepared.slot is None or prepared.document != document:
                prepared.document, prepared.slot = document, Slot(self._new_cache(prepared.model))
            prefill(prepared.model, prepared.slot, tokens, _never(pause))
        return self._lacking(prepared) <= MOST_MISSING

    def _lacking(self, prepared: Prepared) -> int:
        """How many of the tokens of the document used last are not in the cache prepared."""
        document, slot = self._caches.latest or ("", None)
        tokens = list(slot.tokens) if slot else []
        held = prepared.slot.tokens if prepared.slot and prepared.document == document else []
        return len(tokens) - common_prefix(held, tokens)

    def exchange(self, prepared: Prepared) -> Model:
        """Serve `prepared` from now on; what served before is returned, for another thread to give it back."""
        latest = self._caches.latest
        slot = prepared.slot if latest and latest[0] == prepared.document else None
        if latest and slot:
            # The next prompt is laid out as the last one was, or the cache would be of no use.
            slot.layout, slot.snippets, slot.sources = latest[1].layout, latest[1].snippets, latest[1].sources
        self._caches.replace(prepared.document, slot)
        old, self.model = self.model, prepared.model
        self.worn = replace(self.worn, version=prepared.version)
        return old

    def _new_cache(self, model: Model) -> torch.Tensor:
        return model.new_cache(self.budget.total + ROOM)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """The index of the workspace waits meanwhile."""
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()

    def forget(self, document: str) -> None:
        """Drop what is kept of a document that was closed, renamed or deleted."""
        self._caches.forget(document)
        self._workspaces.forget(document)
        self._memory.forget(document)

    def open_folder(self, folder: Folder) -> None:
        """Have a workspace folder indexed in the background; again, with other rules for what is private."""
        self._workspaces.open(folder.root, folder.private_globs, folder.respect_gitignore)

    def observe(self, text: OpenText) -> None:
        """An open document looks like this now."""
        self._workspaces.observe(text.document, text.file, text.text, text.root)
        self._memory.update(text.document, text.text, None, text.file)

    def refresh(self, root: str, paths: Iterable[Path]) -> None:
        """Files of a folder have changed; whoever knows need not wait for the watching."""
        if (workspace := self._workspaces.workspace(root)) is not None:
            workspace.refresh(paths)

    def give_way(self) -> None:
        """Wait until no completion runs, at most a second; for threads that work beside, any of them."""
        self._idle.wait(MOST_PAUSE)

    def settle(self, timeout: float) -> bool:
        """Wait until everything known is indexed; False if that takes longer than `timeout` seconds."""
        settled = self._workspaces.settle(timeout)
        self._feed.settle()
        return settled

    def close(self) -> None:
        """End the threads that look after folders and memory."""
        self._workspaces.close()
        self._feed.close()

    def status(self) -> dict[str, Any]:
        """What the engine is, uses and has done since it started; sizes in bytes.

        `p95_ms` are of the last `SPENT` times that snippets were looked for, that the memory was updated, and that it
        took in a whole document.
        """
        files, indexed = self._workspaces.progress()
        return {
            "base": self.base_id,
            "adapter": self.worn.version,
            "template": self.template.name,
            "kernels": asdict(self.model.kernels),
            "threads": torch.get_num_threads(),
            "totals": dict(self._totals),
            "indexed_files": files,
            "indexed": indexed and self._feed.settled,
            "p95_ms": {name: float(np.percentile(spent, 95)) for name, spent in self._spent.items() if spent},
            "slots": len(self._caches),
            "cache_bytes": self._caches.bytes,
            "rss_bytes": psutil.Process().memory_info().rss,
        }

    def slot(self, document: str) -> Slot:
        """The KV-cache slot of a document."""
        return self._caches.slot(document)

    def prompt(self, request: CompletionRequest, slot: Slot) -> Prompt:
        """The prompt of `request`. Its snippets stay while the layout does: they stand first, and others would throw
        the KV cache away."""
        given = bool(request.snippets)
        asked = request if given else replace(request, snippets=slot.snippets)
        prompt = build(asked, self.tokenizer, self.template, self.budget, slot.layout)
        if not given and (prompt.layout != slot.layout or request.sources != slot.sources):
            with self._timed("context"):
                slot.snippets, slot.sources = self._workspaces.snippets(request), request.sources
            asked = replace(request, snippets=slot.snippets)
            prompt = build(asked, self.tokenizer, self.template, self.budget, prompt.layout)
        slot.layout = prompt.layout
        return prompt

    def _task(self, request: CompletionRequest, prompt: Prompt, around: Surroundings, wanted: bool | None) -> Task:
        usual = LINE_TOKENS if wanted is False else BLOCK_TOKENS
        began, seconds = time.perf_counter(), request.budget_ms / 1000
        last_line = began + seconds * (LINES_WANTED if wanted else LINES_POSSIBLE)
        return Task(
            healed=prompt.healed.encode(),
            must_start=request.must_start.encode(),
            stop_at=lambda out: _stop_at(out, around, wanted, last_line),
            stops=self._stops,
            mask=self.mask,
            first_mask=self.first_mask,
            most_tokens=min(request.max_tokens or usual, ROOM),
            deadline=began + seconds,
            least_logprob=math.log(LEAST_PROBABILITY),
        )

    def recall(self, request: CompletionRequest, prompt: Prompt, matches: bool) -> Callable[[], Recall]:
        """What the memory knows at this cursor, as in `Recall`; each run begins anew with it."""
        prefix, healed, name = request.prefix, prompt.healed, request.document
        with self._timed("memory" if self._memory.knows(name) else "opening"):
            text, begin = self._memory.whole(name, prefix + request.suffix, request.offset, request.length)
            cursor = begin + len(prefix)
            self._memory.update(name, text, (cursor - len(healed), cursor), request.file)
        return lambda: recall_at(self._memory, prefix, request.suffix, healed, matches)

    def _copy(self, request: CompletionRequest, prompt: Prompt, around: Surroundings) -> Copy | None:
        """What the memory would write as a whole; none of a line that stands just above, nor beside a menu's choice."""
        if request.must_start:
            return None
        typed, healed = len(around.line_before.lstrip()), prompt.healed.encode()
        found = copied(self._memory, self.tokenizer.pieces, prompt.tokens, healed, typed)
        return None if found and _repeats(request.prefix, found.text) else found

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._spent[name].append((time.perf_counter() - began) * 1000)

    def _runs(
        self, count: int, slot: Slot, prompt: Prompt, logits: torch.Tensor, task: Task, cancelled: Flag
    ) -> Iterator[Generated]:
        """The greedy text, then sampled ones; several may be alike."""
        yield complete(self.model, slot, self.tokenizer, logits, task, cancelled)
        for seed in range(TRIES * (count - 1)):
            slot.reuse(prompt.tokens)
            generator = torch.Generator().manual_seed(seed)
            sampling = Sampling(TEMPERATURE + WARMER * seed, generator=generator)
            sampled = replace(task, sampling=sampling, least_logprob=-math.inf, copy=None)
            yield generate(self.model, slot, self.tokenizer, logits, sampled, cancelled)

    def _cleaned(
        self, runs: Iterator[Generated], request: CompletionRequest, prompt: Prompt, around: Surroundings
    ) -> tuple[list[Suggestion], int, str]:
        """Suggestions without duplicates, the tokens decoded, and why there is none."""
        kept: dict[str, Suggestion] = {}
        tokens, reason = 0, ""
        for run in runs:
            tokens += len(run.ids)
            text, dropped = postprocess.clean(run.text, around) if run.text else ("", run.stop)
            reason = reason or dropped
            if text and text.startswith(request.must_start):
                kept.setdefault(text, self._suggestion(run, prompt, text))
            if len(kept) >= request.count:
                break
        return list(kept.values()), tokens, "" if kept else reason or "nothing to suggest"

    def _suggestion(self, run: Generated, prompt: Prompt, text: str) -> Suggestion:
        """The `text` that is kept of a run, with the probability that its first line (that is not empty) is right."""
        blank = len(text) - len(text.lstrip())
        line = self._logprobs(run, prompt, text[:blank] + text[blank:].partition("\n")[0])
        right = run.copied or weighed(own_probability(line), run.text, run.copy)[0]
        return Suggestion(text, self._logprobs(run, prompt, text), run.stop, right)

    def _logprobs(self, run: Generated, prompt: Prompt, text: str) -> tuple[float, ...]:
        """Those of the tokens that `text` is made of."""
        size = len((prompt.healed + text).encode())
        begins = itertools.accumulate((len(self.tokenizer.pieces[i]) for i in run.ids), initial=0)
        return tuple(p for p, begin in zip(run.logprobs, begins, strict=False) if begin < size)


def _never(pause: Callable[[], None]) -> Flag:
    """What is asked whether to stop, and only pauses."""

    def cancelled() -> bool:
        pause()
        return False

    return cancelled


def _warm_up(model: Model, cancelled: Flag) -> None:
    """Run everything a few times: the first calls of each compile or allocate something in torch."""
    slot = Slot(model.new_cache(2 * CHUNK))
    extend(model, slot, [0] * CHUNK, 0, cancelled)
    for _ in range(WARM_UP_TOKENS):
        decode_one_token(model, slot, 0)


def _repeats(prefix: str, text: str) -> bool:
    """Whether `text` makes a line that stands just above."""
    *above, line = prefix.rsplit("\n", NEAR_LINES + 1)[-NEAR_LINES - 1 :]
    return (line + text).strip() in {other.strip() for other in above}


def _mask(size: int, forbidden: Collection[int]) -> torch.Tensor:
    """Additive, `[V]`: -∞ for the forbidden ids."""
    return torch.zeros(size).index_fill_(0, torch.tensor(sorted(forbidden), dtype=torch.int64), -math.inf)


def _stop_at(out: Generated, around: Surroundings, wanted: bool | None, last_line: float) -> Stop | None:
    """The text's own stop rules; at a line's end, going on must be soon, and sure where nobody asked for more."""
    lines, newline, rest = out.text.rpartition("\n")
    if newline and lines.strip() and not rest.strip():
        sure = wanted or "\n" in lines.strip() or math.exp(sum(out.logprobs) / len(out.logprobs)) >= SURE
        if not sure or time.perf_counter() > last_line:
            return first_stop(out.text, around) or Stop(len(lines), "end of line" if not sure else "time budget")
    return first_stop(out.text, around)
