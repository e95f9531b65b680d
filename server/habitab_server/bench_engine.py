"""Our engine against llama.cpp with the same weights (Q8_0), in turn, in one run; torch is imported inside only.

Three tasks a round: 1,024 cold tokens of prompt; 64 tokens decoded behind a short prompt; one typed character and 24
new tokens behind a prompt that both sides have cached. The order of the contestants turns with each round. Each has a
process of its own, or the two sides' thread pools would get in each other's way.

Beside it speculation: tokens behind four prompts from this package's benches, with the memory of its other files, with
and without what the memory drafts. The tokens are the same.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil  # type: ignore[import-untyped]

from habitab_engine.config import EngineSettings
from habitab_engine.errors import EngineError, MissingExtraError
from habitab_server.bench import median

if TYPE_CHECKING:
    from habitab_engine.engine import Engine
    from habitab_engine.memory import Memory
    from habitab_engine.recall import Recall

CONTESTANTS = ("habitab", "habitab_plain", "llama_cpp")
BESIDE = (
    "ceiling_tok_s",
    "decode_share_of_ceiling",
    "speculation",
    "rss_mb",
    "threads",
    "kernels",
    "llama_cpp_system_info",
)
THREADS = 2
PROMPT, DECODED, NEW = 1024, 64, 24
TASKS = {"prefill": PROMPT, "decode": 64, "completion": 700}  # methods of a contestant; tokens of their prompts
SPECULATION = ("undrafted", "drafted")
RESIDENT = "resident"  # MB of a contestant's process
CEILING = "read"  # once through as many bytes as a token's weights have
BEHIND, STEP, PROMPTS = 700, 150, 4  # tokens of a prompt; from one to the next; how many
REST_SECONDS = 0.2  # lets the other side's threads go to sleep


class Contestant(Protocol):
    """Each method returns seconds; `tokens` are ids of the base's vocabulary."""

    def prefill(self, tokens: list[int]) -> float: ...

    def decode(self, tokens: list[int]) -> float: ...

    def completion(self, tokens: list[int]) -> float: ...


class Ours:
    """The engine's own prefill and decoding, without stop rules, so that the number of tokens is given."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._memory = _memory(engine)

    def read(self, tokens: list[int]) -> float:
        """A plain sum, the best of 15: what no decoding can beat that reads its weights from where they are."""
        import torch

        buffer, times = torch.zeros(self._engine.model.bytes_per_token // 8, dtype=torch.int64), []
        for _ in range(15):
            start = time.perf_counter()
            buffer.sum()
            times.append(time.perf_counter() - start)
        return min(times)

    def prefill(self, tokens: list[int]) -> float:
        return self._run(tokens, 0)

    def decode(self, tokens: list[int]) -> float:
        self._run(tokens, 0)
        return self._run(tokens, DECODED)

    def completion(self, tokens: list[int]) -> float:
        self._run(tokens[:-1], 0)
        return self._run(tokens, NEW)

    def undrafted(self, tokens: list[int]) -> float:
        return self._speculate(tokens, drafting=False)

    def drafted(self, tokens: list[int]) -> float:
        return self._speculate(tokens, drafting=True)

    def _speculate(self, tokens: list[int], drafting: bool) -> float:
        from habitab_engine.recall import Recall

        recall = Recall(self._memory, None)
        if not drafting:
            recall.draft = lambda context: []  # type: ignore[method-assign]
        seconds = 0.0
        for begin in range(0, PROMPTS * STEP, STEP):
            prompt = tokens[begin : begin + BEHIND]
            self._memory.update("bench:engine", self._engine.tokenizer.decode(prompt))
            self._engine.forget("bench:engine")  # or what the last one wrote would count
            self._run(prompt, 0)
            seconds += self._run(prompt, NEW, recall)
        return seconds

    def _run(self, tokens: list[int], new: int, recall: Recall | None = None) -> float:
        from habitab_engine.decode import Task, generate, prefill

        engine = self._engine
        slot = engine.slot("bench:engine")
        never: Callable[[], bool] = lambda: False  # noqa: E731
        task = Task(
            healed=b"",
            must_start=b"",
            stop_at=lambda out: None,
            stops=frozenset(),
            mask=engine.mask,
            first_mask=engine.first_mask,
            most_tokens=new,
            deadline=float("inf"),
            recall=(lambda: recall) if recall else None,
        )
        start = time.perf_counter()
        logits, _ = prefill(engine.model, slot, tokens, never)
        if new:
            generate(engine.model, slot, engine.tokenizer, logits, task, never)
        return time.perf_counter() - start


class LlamaCpp:
    """llama.cpp through xllamacpp, its prompt cache on; times are its own, without the request's overhead."""

    def __init__(self, gguf: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = 2048, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
        params.verbosity = 0
        self._server = xllamacpp.Server(params)
        self.system_info = str(xllamacpp.get_system_info()).strip()

    def prefill(self, tokens: list[int]) -> float:
        return self._run(tokens, 1, cache=False)["prompt_ms"] / 1000

    def decode(self, tokens: list[int]) -> float:
        times = self._run(tokens, DECODED, cache=False)
        return times["predicted_ms"] / 1000 * DECODED / (times["predicted_n"] - 1)

    def completion(self, tokens: list[int]) -> float:
        self._run(tokens[:-1], 1)
        times = self._run(tokens, NEW)
        return (times["prompt_ms"] + times["predicted_ms"]) / 1000

    def _run(self, tokens: list[int], new: int, cache: bool = True) -> dict[str, Any]:
        asked = {
            "prompt": tokens,
            "n_predict": new,
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": cache,
        }
        timings: dict[str, Any] = self._server.handle_completions(asked)["timings"]
        return timings


class Remote:
    """A contestant in a process of its own, asked through a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.facts: dict[str, Any] = pipe.recv()

    def run(self, task: str, tokens: list[int]) -> float:
        self._pipe.send((task, tokens))
        return float(self._pipe.recv())


def _serve(pipe: Connection, make: Callable[[str], tuple[Contestant, dict[str, Any]]], argument: str) -> None:
    """The other end of `Remote`, until the pipe is closed."""
    contestant, facts = make(argument)
    pipe.send(facts)
    with contextlib.suppress(EOFError):
        while True:
            task, tokens = pipe.recv()
            gc.collect()
            pipe.send(_resident() if task == RESIDENT else getattr(contestant, task)(tokens))


def _resident() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6


@contextlib.contextmanager
def _remote(make: Callable[[str], tuple[Contestant, dict[str, Any]]], argument: str) -> Iterator[Remote]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, argument), daemon=True)
    process.start()
    there.close()
    try:
        yield Remote(here)
    except EOFError as error:
        raise EngineError("A process of the bench ended before its answer: see what it printed above.") from error
    finally:
        here.close()
        process.join(10)


def make_habitab(base: str) -> tuple[Contestant, dict[str, Any]]:
    return _make_ours(EngineSettings(base=base, threads=THREADS))


def make_plain(base: str) -> tuple[Contestant, dict[str, Any]]:
    return _make_ours(EngineSettings(base=base, threads=THREADS, kernel="float32"))


def _make_ours(settings: EngineSettings) -> tuple[Contestant, dict[str, Any]]:
    from habitab_engine.worker import prepare_environment

    prepare_environment(settings)  # as the engine process does, before torch is imported
    from habitab_engine.engine import Engine

    engine = Engine.load(settings)
    return Ours(engine), {"kernels": engine.status()["kernels"], "tokens": _text(engine)}


def make_llama_cpp(gguf: str) -> tuple[Contestant, dict[str, Any]]:
    llama = LlamaCpp(Path(gguf))
    return llama, {"system_info": llama.system_info}


def measure(base: Path | None, rounds: int) -> dict[str, Any]:
    """The JSON of `bench engine`. Raises MissingExtraError without the extra `bench`."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtraError("llama.cpp is not installed: run pip install 'habitab[bench]' and try again.")
    from habitab_engine.export import export_gguf

    folder = str(base) if base else ""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="habitab-bench-"))
        gguf = next(f for f in export_gguf(Path(place), base) if "q8_0" in f.name)
        makers = (make_habitab, folder), (make_plain, folder), (make_llama_cpp, str(gguf))
        remotes = [stack.enter_context(_remote(*maker)) for maker in makers]
        sides = dict(zip(CONTESTANTS, remotes, strict=True))
        ours, theirs = sides["habitab"].facts, sides["llama_cpp"].facts
        seconds = _rounds(sides, ours["tokens"], rounds)
        resident = {name: round(side.run(RESIDENT, [])) for name, side in sides.items()}
    return _result(seconds) | {
        "threads": THREADS,
        "kernels": ours["kernels"],
        "llama_cpp_system_info": theirs["system_info"],
        "rss_mb": resident,
        "rounds": rounds,
    }


Seconds = dict[str, dict[str, list[float]]]


def _rounds(sides: dict[str, Remote], tokens: list[int], rounds: int) -> Seconds:
    """Seconds by task and contestant; the first round warms up and is not counted."""
    seconds: Seconds = {task: {name: [] for name in sides} for task in (*TASKS, CEILING, *SPECULATION)}
    names, own = list(sides), dict.fromkeys(SPECULATION, BEHIND + PROMPTS * STEP) | {CEILING: 0}
    for number in range(rounds + 1):
        begin = 97 * number  # other tokens in every round: no cache can help where none is meant to
        for name in names[number % len(names) :] + names[: number % len(names)]:
            tasks = TASKS | (own if name == CONTESTANTS[0] else {})
            for task, length in tasks.items():
                time.sleep(REST_SECONDS)
                taken = sides[name].run(task, tokens[begin : begin + length])
                seconds[task][name] += [taken] if number else []
    return seconds


def _text(engine: Engine) -> list[int]:
    """Tokens of real code: this package's benches."""
    code = "".join(p.read_text(encoding="utf-8") for p in sorted(Path(__file__).parent.glob("bench*.py")))
    return engine.tokenizer.encode(code)


def _memory(engine: Engine) -> Memory:
    """Of this package and the engine's, without the benches, which the prompts are of."""
    from habitab_engine import memory

    known = memory.Memory(engine.tokenizer.encode, engine.model.config.vocab)
    for file in (*Path(__file__).parent.glob("*.py"), *Path(memory.__file__).parent.glob("*.py")):
        if not file.name.startswith("bench"):
            known.add_file(str(file), file.read_text(encoding="utf-8"))
    known.build()
    return known


def _result(seconds: Seconds) -> dict[str, Any]:
    result: dict[str, Any] = {
        name: {
            "prefill_tok_s": PROMPT / median(seconds["prefill"][name]),
            "decode_tok_s": DECODED / median(seconds["decode"][name]),
            "completion_ms": 1000 * median(seconds["completion"][name]),
        }
        for name in CONTESTANTS
    }
    spread = {}
    for key, name in (("ratio", "habitab"), ("ratio_plain", "habitab_plain")):
        ratios = {task: _ratios(seconds[task]["llama_cpp"], seconds[task][name]) for task in TASKS}
        result[key] = {task: median(values) for task, values in ratios.items()}
        spread[key] = {task: [min(values), max(values)] for task, values in ratios.items()}
    read, decode = seconds[CEILING]["habitab"], [taken / DECODED for taken in seconds["decode"]["habitab"]]
    beside = {
        "ceiling_tok_s": 1 / median(read),
        "decode_share_of_ceiling": median(_ratios(read, decode)),
        "speculation": _speculation(seconds),
    }
    return result | {"spread": spread} | beside


def _speculation(seconds: Seconds) -> dict[str, float]:
    """Tokens a second with drafts, against those without and against llama.cpp's without."""
    undrafted, drafted = (seconds[task]["habitab"] for task in SPECULATION)
    theirs = [taken * PROMPTS * NEW / DECODED for taken in seconds["decode"]["llama_cpp"]]
    return {
        "tok_s": PROMPTS * NEW / median(drafted),
        "ratio_undrafted": median(_ratios(undrafted, drafted)),
        "ratio_llama_cpp": median(_ratios(theirs, drafted)),
    }


def _ratios(theirs: list[float], ours: list[float]) -> list[float]:
    """Round by round: above 1, we are faster."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]
