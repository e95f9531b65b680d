"""`habitab learn`: an adapter from what a person has written so far, judged before it serves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from habitab_server.cli import Session

NEARLY_ALL = 0.9  # of the examples: more time would change little
# What the metrics are called for a person, and which of them a table shows.
_FIGURES = (
    ("own later lines right at the first try", "exact_before", "exact_after", ".1%", "exact_points", "+.1f", "points"),
    ("characters saved by suggestions, net", "net_before", "net_after", ",.0f", "net_gain", "+,.0f", "characters"),
    ("bits per byte of own later lines", "bits_before", "bits_after", ".3f", "bits_ratio", ".3f", "times"),
)


@click.command("learn")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--author", metavar="EMAIL", help="Whose commits; by default who git says you are.")
@click.option("--since", metavar="DATE", type=click.DateTime(["%Y-%m-%d"]), help="Only what was written from then on.")
@click.option(
    "--minutes",
    type=click.FloatRange(1, 1440),
    default=25,
    show_default=True,
    help="How long, about; training has what judging leaves.",
)
@click.pass_obj
def learn_command(
    session: Session, paths: tuple[Path, ...], author: str | None, since: datetime | None, minutes: float
) -> None:
    """Learn from git histories or plain folders: an adapter that serves if it is better on your newest code."""
    from habitab_engine.config import EngineSettings, thread_count
    from habitab_engine.worker import prepare_environment

    settings = EngineSettings()
    prepare_environment(EngineSettings(threads=thread_count(settings)), learning=True)
    from habitab_adapters.learn import learn
    from habitab_server.bars import bars

    with bars() as tell:
        outcome = learn(session.home, session.base, paths, author=author, since=since, seconds=60 * minutes, tell=tell)
    if not session.as_json and (rows := _rows(outcome.metrics)):
        from habitab_server.bench import print_table

        print_table("What it learned", ["figure", "before", "after", "95 % interval"], rows)
    promoted = outcome.verdict == "promoted"
    serves = f"The adapter {outcome.version} serves from now on." if promoted else "What served before goes on serving."
    session.finish(asdict(outcome), "\n".join([*outcome.reasons, *_unseen(outcome.metrics, minutes), serves]))


def _unseen(metrics: Mapping[str, Any], minutes: float) -> list[str]:
    """What more time would bring, where it was too short for all that there is to learn."""
    seen, examples = metrics.get("examples_seen", 0), metrics.get("examples", 0)
    if not 0 < seen < NEARLY_ALL * examples:
        return []
    longer = math.ceil(minutes + metrics["seconds"] / 60 * (examples / seen - 1))
    return [f"It was trained on {seen} of {examples} examples: `--minutes {longer}` would be enough for all."]


def _rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [
            name,
            f"{metrics[old]:{form}}",
            f"{metrics[new]:{form}}",
            f"{spread[0]:{change}} to {spread[1]:{change}} {unit}",
        ]
        for name, old, new, form, between, change, unit in _FIGURES
        if (spread := metrics.get(between))
    ]
    if "strangers_bits_per_token" in metrics:
        rows.append(["more bits per token of strangers' code", "", f"{metrics['strangers_bits_per_token']:.4f}", ""])
    return rows
