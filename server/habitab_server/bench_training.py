"""Our training of an adapter against peft with transformers' Trainer: the same examples in the same batches, in turns.

Both train an adapter of the same shape on the same weights, with the same optimiser, learning rates, number of threads
and loss (of what is written, not of the prompt). Examples are places in this project's code, as long as those of
`habitab learn`. A turn is one step; the first of each side warms up and is not counted. A side's tokens are all those
of its examples. Ours saves the gradients within the prompts and from one pass to those before it (`tuned.py`): what
that costs is the difference of the losses on examples unseen.
"""

from __future__ import annotations

import importlib.util
import math
import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import habitab_adapters
from habitab_adapters.handwork import is_worth_typing
from habitab_engine import config
from habitab_engine.config import EngineSettings, thread_count
from habitab_engine.errors import MissingExtraError
from habitab_engine.worker import prepare_environment

if TYPE_CHECKING:
    from habitab_adapters.training import Course, Moment
    from habitab_adapters.tuned import Lesson
    from habitab_engine.checkpoint import Checkpoint

LESSON_TOKENS = 740  # about as many, prompt and all
UNSEEN = 4  # lessons that say what was learned
IGNORED = -100  # a label that does not count
SEED = 0


@dataclass(slots=True)
class Turn:
    """One step of either side on the same `tokens`, in seconds."""

    tokens: int
    ours: float = 0.0
    theirs: float = 0.0


def measure(base: Path | None, tokens: int) -> dict[str, Any]:
    """The JSON of `bench training`; each side is timed on at least `tokens` tokens.

    Raises MissingExtraError without transformers and peft.
    """
    if not all(importlib.util.find_spec(name) for name in ("transformers", "peft")):
        raise MissingExtraError(
            "transformers and peft are not installed: run pip install 'habitab[bench]' and try again."
        )
    threads = thread_count(EngineSettings())
    prepare_environment(EngineSettings(threads=threads), learning=True)  # before torch is imported
    import torch

    from habitab_adapters.training import Course
    from habitab_engine.checkpoint import load_checkpoint

    torch.set_num_threads(threads)
    checkpoint, course = load_checkpoint(base), Course(seconds=math.inf, device="cpu")
    turns = 1 + math.ceil(tokens / (course.batch * LESSON_TOKENS))
    drawn = lessons(checkpoint, UNSEEN + turns * course.batch)
    with tempfile.TemporaryDirectory(prefix="habitab-bench-") as place:
        done, losses = _compete(checkpoint, drawn[UNSEEN:], drawn[:UNSEEN], course, Path(place), base)
    return _result(done[1:], losses) | {"rank": course.rank, "batch": course.batch, "threads": threads}


def _compete(
    checkpoint: Checkpoint,
    seen: Sequence[Lesson],
    unseen: Sequence[Lesson],
    course: Course,
    place: Path,
    base: Path | None,
) -> tuple[list[Turn], tuple[float, float, float]]:
    """The turns, and the losses in nats a token on `unseen`: before, and after with ours and with theirs."""
    from habitab_adapters.training import Training, order
    from habitab_engine.export import export_hf

    export_hf(place / "hf", base)
    chosen = [seen[i] for i in order(len(seen), course.passes, course.seed)]
    parts = [chosen[i : i + course.batch] for i in range(0, len(chosen), course.batch)]
    turns = [Turn(sum(len(one.prompt) + len(one.written) for one in part)) for part in parts]
    ours = Training(checkpoint, seen, course, place / "ours")
    theirs = Theirs(place / "hf", course, len(parts))
    begun = time.perf_counter()

    def tell(moment: Moment) -> None:
        """Their turn comes when ours is over."""
        nonlocal begun
        turn = turns[moment.step - 1]
        turn.ours = time.perf_counter() - begun
        turn.theirs = theirs.train(parts[moment.step - 1])
        begun = time.perf_counter()

    losses = ours.run(unseen, tell).losses
    return turns, (losses[0][1], losses[-1][1], theirs.loss(unseen))


class Theirs:
    """peft's LoRA on the base that was exported to `folder`, trained by transformers' Trainer."""

    def __init__(self, folder: Path, course: Course, steps: int) -> None:
        """`steps` are those of all turns."""
        import peft
        import torch
        import transformers

        from habitab_adapters.pretrain.machine import choose_machine
        from habitab_adapters.training import BETAS, FINAL, WARM_UP
        from habitab_adapters.tuned import PARTS

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.manual_seed(course.seed)
        self._course, self._folder = course, folder
        self._rounded = choose_machine(course.device).kind is torch.bfloat16
        modules = [part.rpartition(".")[2] for parts in PARTS.values() for part in parts]
        shape = peft.LoraConfig(
            r=course.rank, lora_alpha=int(course.alpha), target_modules=modules, lora_dropout=0.0, task_type="CAUSAL_LM"
        )
        whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            self._model = peft.get_peft_model(whole, shape)
        own = [p for p in self._model.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(own, lr=course.rate, betas=BETAS, weight_decay=0.0)

        def share(step: int) -> float:
            """Of the learning rate, as in `training.py`."""
            fallen = FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * step / steps))
            return min(1.0, (step + 1) / WARM_UP) * fallen

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, share)

    def train(self, lessons: Sequence[Lesson]) -> float:
        """One step; return its seconds, those of setting a Trainer up left out."""
        import transformers
        from torch.utils.data import SequentialSampler

        seconds = 0.0

        class InOrder(transformers.Trainer):
            def _get_train_sampler(self, *_: Any) -> SequentialSampler:
                return SequentialSampler(lessons)

        class Clock(transformers.TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                nonlocal seconds
                seconds -= time.perf_counter()

            def on_train_end(self, *_: Any, **__: Any) -> None:
                nonlocal seconds
                seconds += time.perf_counter()

        arguments = transformers.TrainingArguments(
            output_dir=str(self._folder / "trainer"),
            per_device_train_batch_size=self._course.batch,
            max_steps=1,
            max_grad_norm=self._course.clip,
            bf16=self._rounded,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = InOrder(
            self._model,
            arguments,
            data_collator=_padded,
            train_dataset=list(lessons),
            callbacks=[Clock()],
            optimizers=(self._optimiser, self._schedule),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return seconds

    def loss(self, lessons: Sequence[Lesson]) -> float:
        """Nats a token of what is written."""
        import torch

        self._model.eval()
        nats, counted = 0.0, sum(len(lesson.written) for lesson in lessons)
        with torch.no_grad():
            for lesson in lessons:
                nats += float(self._model(**_padded([lesson])).loss) * len(lesson.written)
        return nats / counted


def _padded(lessons: Sequence[Lesson]) -> dict[str, Any]:
    """A batch as transformers wants it: `[lessons, tokens of the longest]`."""
    import torch

    texts = [[*lesson.prompt, *lesson.written] for lesson in lessons]
    shape = len(texts), max(map(len, texts))
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, (lesson, text) in enumerate(zip(lessons, texts, strict=True)):
        ids[row, : len(text)], mask[row, : len(text)] = torch.tensor(text), 1
        labels[row, len(lesson.prompt) : len(text)] = torch.tensor(lesson.written)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def lessons(checkpoint: Checkpoint, count: int) -> list[Lesson]:
    """As many lessons from this project's own code, at random places with a fixed seed, as long as a person's."""
    from habitab_adapters.dataset import LONGEST_PASSAGE, LONGEST_STRETCH, SHORTEST_PASSAGE
    from habitab_adapters.learn import PROMPT_TOKENS
    from habitab_adapters.tuned import Lesson
    from habitab_engine.base_files import load_vocabulary
    from habitab_engine.families import detect
    from habitab_engine.prompt import Budget, build
    from habitab_engine.tokenizer import Tokenizer
    from habitab_engine.types import CompletionRequest

    vocabulary = load_vocabulary(checkpoint.folder, checkpoint.config)
    template = detect(vocabulary)
    tokenizer, budget = Tokenizer(checkpoint.folder, template.tokens), Budget.of(PROMPT_TOKENS)
    rng, found, places = random.Random(SEED), [], list(_places(LONGEST_PASSAGE))
    for path, content, begin in rng.choices(places, k=count):
        prefix, rest = content[:begin], content[begin:]
        last = rest.find("\n", rng.randint(SHORTEST_PASSAGE, LONGEST_PASSAGE))
        text, suffix = (rest[:last], rest[last:]) if last >= 0 else (rest, "")
        prompt = build(CompletionRequest(path, path, prefix, suffix), tokenizer, template, budget)
        written = tokenizer.encode(prompt.healed + text)[:LONGEST_STRETCH]
        written.append(vocabulary[template.stops[0]])
        found.append(Lesson(prompt.tokens, written, [1.0] * len(written)))
    return found


def _places(least: int) -> Iterator[tuple[str, str, int]]:
    """(path, text, where it begins) of every line that is worth typing with at least so many characters behind it."""
    for folder in (Path(file).parent for file in (habitab_adapters.__file__, config.__file__, __file__)):
        for file in sorted(folder.glob("*.py")):
            text, begin = file.read_text(encoding="utf-8"), 0
            for line in text.splitlines(keepends=True):
                if is_worth_typing(line) and len(text) - begin >= least:
                    yield file.name, text, begin
                begin += len(line)


def _result(turns: Sequence[Turn], losses: tuple[float, float, float]) -> dict[str, Any]:
    tokens = sum(turn.tokens for turn in turns)
    ours, theirs = (sum(getattr(turn, side) for turn in turns) for side in ("ours", "theirs"))
    ratios = [turn.theirs / turn.ours for turn in turns]
    before, after, their_loss = losses
    return {
        "habitab_tok_s": round(tokens / ours, 1),
        "transformers_tok_s": round(tokens / theirs, 1),
        "ratio": round(theirs / ours, 3),
        "loss_gap": round(after - their_loss, 4),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "loss": {"before": round(before, 4), "habitab": round(after, 4), "transformers": round(their_loss, 4)},
        "tokens": tokens,
    }
