"""The commands. What a command needs is imported inside it, so that `--help` is instant.

Results go to standard output, everything else to standard error. Exit 0 done, 1 could not, 2 usage.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from habitab_engine import __version__
from habitab_engine.errors import HabitabError, InputError, MissingBaseError, PositionError
from habitab_server.cli_adapters import adapters_group
from habitab_server.cli_base import base_group
from habitab_server.cli_learn import learn_command
from habitab_server.cli_signals import signals_group

if TYPE_CHECKING:
    from habitab_engine.home import Home
    from habitab_engine.types import Completion, CompletionRequest

# Who asks on the command line waits for the answer; an editor's person types on.
PATIENCE_MS = 30_000.0
# What a shell reports for a command ended by Ctrl-C.
INTERRUPTED = 130
# The files in the folder `editors` that connect an editor.
EDITORS = {"nvim": "habitab.lua", "emacs": "habitab.el", "helix": "helix.toml"}


@dataclass(frozen=True, slots=True)
class Session:
    """The global options."""

    home_option: str | None
    user_option: str | None
    base_option: Path | None
    as_json: bool

    @property
    def home(self) -> Home:
        from habitab_engine.home import Home

        return Home.locate(self.home_option, self.user_option)

    @property
    def base(self) -> Path | None:
        """The folder of --base; raises MissingBaseError if there is none."""
        if self.base_option is not None and not self.base_option.is_dir():
            raise MissingBaseError(f"There is no base model folder {self.base_option}: check --base.")
        return self.base_option.resolve() if self.base_option else None

    def finish(self, result: dict[str, Any], text: str) -> None:
        """Print the result for a person or, with --json, for a program."""
        click.echo(json.dumps(result) if self.as_json else text)


def parse_address(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """HOST:PORT, where an IPv6 host stands in brackets."""
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise click.BadParameter(f"{value!r} is not HOST:PORT, for example 127.0.0.1:7000.")
    return host.strip("[]"), int(port)


class Commands(click.Group):
    """Turns what no command foresaw into one sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        foreseen = (HabitabError, click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError)
        try:
            return super().invoke(ctx)
        except foreseen:
            raise
        except Exception as exc:
            raise HabitabError(unexpected(ctx.params.get("home"), exc)) from exc


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", metavar="PATH", help="Where habitab keeps its files (env HABITAB_HOME).")
@click.option("--user", metavar="NAME", help="Whose habitab this is (env HABITAB_USER).")
@click.option("--base", metavar="DIR", type=click.Path(path_type=Path), help="Another base model.")
@click.option("--json", "as_json", is_flag=True, help="End standard output with one JSON object.")
@click.version_option(__version__, prog_name="habitab")
@click.pass_context
def cli(context: click.Context, home: str | None, user: str | None, base: Path | None, as_json: bool) -> None:
    """Inline code completion on your own machine."""
    context.obj = Session(home, user, base, as_json)


@cli.command()
@click.option("--stdio", is_flag=True, help="Speak over standard input and output (the default).")
@click.option("--tcp", metavar="HOST:PORT", callback=parse_address, help="Listen on this machine instead.")
@click.pass_obj
def serve(session: Session, stdio: bool, tcp: tuple[str, int] | None) -> None:
    """The language server for editors."""
    if stdio and tcp:
        raise click.UsageError("Choose --stdio or --tcp, not both.")
    import gc

    # The protocol's some thousand classes are here to stay: without a look at each of them it starts a tenth sooner.
    gc.disable()
    from habitab_engine.home import open_log
    from habitab_server import lsp

    gc.freeze()
    gc.enable()
    base = session.base
    open_log(session.home, "lsp")
    lsp.serve(session.home, base, tcp)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("line", type=int)
@click.argument("column", type=int)
@click.option("--count", type=click.IntRange(1, 10), default=1, help="How many alternatives.")
@click.pass_obj
def complete(session: Session, file: Path, line: int, column: int, count: int) -> None:
    """One completion in FILE at the 1-based LINE and COLUMN (counted in characters)."""
    request = request_at(file, line, column, count)
    completion = ask_engine(session, request)
    session.finish(completion_result(completion, count), drawn(request, completion))


@cli.group()
def bench() -> None:
    """Measurements: each prints a table, then one line of JSON."""


@bench.command("latency")
@click.option("--path", type=click.Path(path_type=Path), help="A folder of source code to type in.")
@click.option("--keystrokes", type=click.IntRange(min=1), default=400, help="How many keys at least.")
@click.pass_obj
def bench_latency(session: Session, path: Path | None, keystrokes: int) -> None:
    """From a keystroke to the reply, through the real server."""
    from habitab_server.bench import run_latency

    click.echo(json.dumps(run_latency(session.home, session.base, path, keystrokes)))


@bench.command("engine")
@click.option("--rounds", type=click.IntRange(min=1), default=5, help="Rounds counted, after one to warm up.")
@click.pass_obj
def bench_engine(session: Session, rounds: int) -> None:
    """Our engine and llama.cpp in turn, with the same weights."""
    from habitab_server.bench import run_engine

    click.echo(json.dumps(run_engine(session.home, session.base, rounds)))


@bench.command("replay")
@click.argument("repo", type=click.Path(path_type=Path))
@click.option("--split", type=click.FloatRange(0, 1, max_open=True), default=0.7, help="The past's share (0.7).")
@click.option("--events", type=click.IntRange(min=1), default=200, help="How many lines are typed (200).")
@click.option("--author", metavar="EMAIL", help="Only this person's commits.")
@click.option("--adapter", metavar="V", help="With this version of your adapter instead of the active one.")
@click.pass_obj
def bench_replay(
    session: Session, repo: Path, split: float, events: int, author: str | None, adapter: str | None
) -> None:
    """How much would habitab have helped on the git repository REPO?

    Lines that were added after the split are typed again by a simulated typist. A run that was killed goes on where
    it was.
    """
    from habitab_server.bench import run_replay

    click.echo(json.dumps(run_replay(session.home, session.base, repo, split, events, author, adapter)))


_POSITIONS = click.IntRange(4, 1800)  # `bench_personal.MOST_LINES` of them have so many cursors


@bench.command("personal")
@click.argument("repos", metavar="REPO…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--positions", type=_POSITIONS, default=1800, show_default=True, help="Cursors asked of each, about.")
@click.option("--minutes", type=click.FloatRange(1), default=25.0, show_default=True, help="Learning, for each.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Where what is finished stands.")
@click.pass_obj
def bench_personal(session: Session, repos: tuple[Path, ...], positions: int, minutes: float, out: Path | None) -> None:
    """Does an adapter know what context and memory do not? Each history's main author stands for a person."""
    from habitab_server.bench import run_personal

    folder = out or session.home.user_folder / "bench" / "personal"
    click.echo(json.dumps(run_personal(session.base, repos, positions, 60 * minutes, folder)))


@bench.command("recipe")
@click.argument("repo", type=click.Path(path_type=Path))
@click.option("--try", "tries", metavar="SETTINGS", multiple=True, help='Such as "rate=5e-4,batch=4"; can be repeated.')
@click.option("--positions", type=_POSITIONS, default=400, show_default=True, help="Cursors asked of each, about.")
@click.option("--minutes", type=click.FloatRange(0), default=12.5, show_default=True, help="Training, for each.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="Where what is finished stands.")
@click.pass_obj
def bench_recipe(
    session: Session, repo: Path, tries: tuple[str, ...], positions: int, minutes: float, out: Path | None
) -> None:
    """Which way of training makes the better adapter of one history? The usual one stands beside what is tried."""
    from habitab_server.bench import run_recipe

    folder = out or session.home.user_folder / "bench" / "recipe"
    click.echo(json.dumps(run_recipe(session.base, repo, tries, positions, 60 * minutes, folder)))


@bench.command("forgetting")
@click.option("--adapter", metavar="V", help="This version of your adapter instead of the active one.")
@click.pass_obj
def bench_forgetting(session: Session, adapter: str | None) -> None:
    """What your adapter costs on strangers' code, which is Python's standard library."""
    from habitab_server.bench import run_forgetting

    click.echo(json.dumps(run_forgetting(session.home, session.base, adapter)))


@bench.command("training")
@click.option("--tokens", type=click.IntRange(min=1), default=16_000, help="How many each side trains on (16,000).")
@click.pass_obj
def bench_training(session: Session, tokens: int) -> None:
    """Our training of an adapter and that of peft with transformers in turn, on the same examples."""
    from habitab_server.bench import run_training

    click.echo(json.dumps(run_training(session.base, tokens)))


@bench.command("history")
@click.argument("package")
@click.pass_obj
def bench_history(session: Session, package: str) -> None:
    """Make a git repository of the releases of PACKAGE, for `replay`; nothing of them is run or built."""
    from habitab_server.bench import run_history

    click.echo(json.dumps(run_history(session.home, package)))


cli.add_command(adapters_group)
cli.add_command(base_group)
cli.add_command(learn_command)
cli.add_command(signals_group)


@cli.command()
@click.argument("name", metavar="|".join(EDITORS), type=click.Choice(list(EDITORS)))
@click.pass_obj
def editor(session: Session, name: str) -> None:
    """Print the configuration that connects an editor; its first lines say where to put it."""
    from importlib.resources import files

    config = (files("habitab_server") / "editors" / EDITORS[name]).read_text(encoding="utf-8")
    session.finish({"editor": name, "config": config}, config.rstrip("\n"))


@cli.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check the installation and say what to do about each fault."""
    from habitab_server.doctor import examine, report

    session: Session = context.obj
    checks = []
    for check in examine(session.home, session.base_option):
        click.echo(report(check), err=session.as_json)
        checks.append(check)
    healthy = all(check.ok for check in checks)
    if session.as_json:
        click.echo(json.dumps({"ok": healthy, "checks": [check.as_json() for check in checks]}))
    context.exit(0 if healthy else 1)


# ---- one completion ----


def request_at(file: Path, line: int, column: int, count: int) -> CompletionRequest:
    """What an editor would ask with its cursor there.

    Raises InputError for a file that holds secrets or cannot be read, PositionError outside of it. What git
    ignores is read: the person named the file.
    """
    from habitab_engine import privacy
    from habitab_engine.types import CompletionRequest
    from habitab_server.documents import Document, Place, clean

    reason = privacy.why_private(file, (), respect_gitignore=False)
    if reason:
        raise InputError(f"{file} is not read because {reason}.")
    text = privacy.read_text(file)
    place = Place(line - 1, column - 1)
    check_position(clean(text).split("\n"), place.line, place.column)
    path = file.resolve()
    snapshot = Document(path.as_uri(), "", 1, text).snapshot(place)
    return CompletionRequest(
        document=snapshot.uri,
        path=path_in_project(path),
        prefix=snapshot.prefix,
        suffix=snapshot.suffix,
        offset=snapshot.offset,
        count=count,
        budget_ms=PATIENCE_MS,
    )


def check_position(lines: Sequence[str], line: int, column: int) -> None:
    """Raise PositionError, in the person's 1-based numbers, for a place that does not exist."""
    if not 0 <= line < len(lines):
        raise PositionError(f"There is no line {line + 1}: the file has lines 1 to {len(lines)}.")
    if not 0 <= column <= len(lines[line]):
        raise PositionError(
            f"There is no column {column + 1} in line {line + 1}: it has columns 1 to {len(lines[line]) + 1}."
        )


def path_in_project(path: Path) -> str:
    """The path the model reads: from the git work tree around the file, else the file's name."""
    root = next((folder for folder in path.parents if (folder / ".git").exists()), path.parent)
    return path.relative_to(root).as_posix()


def ask_engine(session: Session, request: CompletionRequest) -> Completion:
    from habitab_engine.config import EngineSettings
    from habitab_engine.link import with_engine

    base = session.base
    settings = EngineSettings(base=str(base) if base else "")
    return with_engine(session.home, settings, lambda link: link.complete(request))


def completion_result(completion: Completion, count: int) -> dict[str, Any]:
    """The JSON of `habitab complete`."""
    texts = [suggestion.text for suggestion in completion.suggestions]
    result: dict[str, Any] = {
        "text": texts[0] if texts else "",
        "latency_ms": round(completion.latency_ms, 1),
        "tokens": completion.tokens,
        "adapter": completion.adapter,
        "shown": bool(texts),
        "reason": completion.reason,
    }
    return result | ({"alternatives": texts} if count > 1 else {})


def drawn(request: CompletionRequest, completion: Completion) -> str:
    """Each suggestion within its line, coloured on a terminal and between marks elsewhere."""
    if not completion.suggestions:
        return f"No suggestion: {completion.reason or 'the model had none'}."
    head = request.prefix.rpartition("\n")[2]
    tail = request.suffix.partition("\n")[0]
    return "\n".join(f"{head}{_marked(one.text)}{tail}" for one in completion.suggestions)


def _marked(text: str) -> str:
    return click.style(text, fg="green") if sys.stdout.isatty() else f"├{text}┤"


# ---- the way out ----


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows another, rather than nothing at all.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code; whatever happens is one sentence on standard error."""
    try:
        result = cli.main(list(arguments), prog_name="habitab", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except HabitabError as exc:
        click.echo(f"habitab: {exc}", err=True)
    except BrokenPipeError:
        # The reader has seen enough; the interpreter must not complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def unexpected(home_option: str | None, exc: Exception) -> str:
    """Log where `exc` came from, without its message, which may quote code; return one sentence."""
    import traceback

    from habitab_engine.home import Home, open_log

    home = Home.locate(home_option)
    frames = "".join(traceback.format_list(traceback.extract_tb(exc.__traceback__)))
    open_log(home, "cli").error("%s\n%s", type(exc).__name__, frames)
    return f"something went wrong ({type(exc).__name__}): see {home.logs / 'cli.log'}."
