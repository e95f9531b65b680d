"""Learning promotes what is surely better, keeps what was otherwise, and never trains on what judges it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from habitab_adapters import bounds, canaries
from habitab_adapters import learn as learning
from habitab_adapters.evaluate import CURSORS
from habitab_adapters.judge import Judge
from habitab_adapters.learn import AGAIN, LEAST_TRAINING, learn
from habitab_adapters.registry import Registry
from habitab_adapters.strangers import Forgetting
from habitab_adapters.training import Course, Training
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.errors import InputError
from habitab_engine.home import Home
from habitab_engine.locks import locked
from histories import History

COMMITS = 60

pytestmark = pytest.mark.usefixtures("plain_cpu")


class KilledError(Exception):
    """What a test ends a run with."""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """One function is added to one of four files in every commit."""
    made, texts = History(tmp_path_factory.mktemp("learned") / "history"), dict[str, str]()
    for i in range(COMMITS):
        name = f"part_{i % 4}.py"
        texts[name] = texts.get(name, "") + f"def step_{i}(value):\n    return value + {i}\n\n\n"
        made.commit({name: texts[name]})
    return made


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", "ada")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random base knows nothing to forget and its judgement takes long: numbers are given instead."""
    monkeypatch.setattr(bounds, "Strangers", lambda *_: Harmless())
    monkeypatch.setattr(bounds, "exposure", lambda *_: 0.0)
    monkeypatch.setattr(bounds, "_exposed", lambda *_: 0.0)
    monkeypatch.setattr(learning, "FEWEST_COMMITS", 5)
    monkeypatch.setattr(learning, "MOST_PASSAGES", 4)
    monkeypatch.setattr(learning, "MOST_STRETCHES", 24)
    monkeypatch.setattr(learning, "MOST_SELECTING", 3)
    monkeypatch.setattr(learning, "MOST_LINES", 12)
    monkeypatch.setattr(learning, "REHEARSED", 4)
    monkeypatch.setattr(canaries, "PLANTED", 4)


class Harmless:
    """Strangers' code to which an adapter does `harm` bits a token at its full scale."""

    harm, base = 0.0, None

    def ask_base(self, tell: Callable[[float], None]) -> None:
        tell(1.0)

    def compare(self, new: object, tell: Callable[[float], None], stride: int) -> Forgetting:
        tell(1.0)
        return Forgetting(self.harm, 0.0, 0.0, 1.0, 0.0, 50_000, 100)

    def close(self) -> None:
        pass


def better(*_: object) -> dict[str, object]:
    return {
        "exact_before": 0.2,
        "exact_after": 0.3,
        "exact_points": [5.0, 15.0],
        "net_before": 100.0,
        "net_after": 100.0,
        "net_gain": [-9.0, 9.0],
        "bits_before": 1.0,
        "bits_after": 0.9,
        "bits_ratio": [0.85, 0.95],
        "parsed_points": [-1.0, 1.0],
    }


def histories_of(stack: ExitStack, *folders: Path, author: str | None = "ada@x.org") -> list[learning.History]:
    known = [learning._written(folder, author, None, stack) for folder in folders]
    return learning.split(learning.by_time(known), [repository for repository, _ in known])


def test_what_is_better_is_promoted_and_served(
    home: Home, tiny_base: Path, history: History, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "after", better)
    outcome = learn(home, tiny_base, [history.folder], author="ada@x.org", seconds=60)
    assert outcome.verdict == "promoted" and outcome.version == "v1"
    registry = Registry(home, tiny_base)
    assert registry.active == "v1"
    assert registry.load("v1").rank == Course().rank
    assert not (home.user_folder / "learning").exists()


def test_what_is_not_surely_better_changes_nothing(
    home: Home, tiny_base: Path, history: History, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "after", lambda *_: better() | {"net_after": 99.9})
    outcome = learn(home, tiny_base, [history.folder], author="ada@x.org", seconds=60)
    assert outcome.verdict == "kept" and "fewer characters" in outcome.reasons[0]
    assert Registry(home, tiny_base).active is None and Registry(home, tiny_base).versions() == []


def test_a_real_judgement_through_the_engine_ends_in_a_verdict(
    home: Home, tiny_base: Path, history: History, quick: None
) -> None:
    phases: dict[str, float] = {}
    outcome = learn(home, tiny_base, [history.folder], author="ada@x.org", seconds=60, tell=phases.__setitem__)
    assert outcome.verdict in ("promoted", "kept")
    assert outcome.metrics["positions"] == 12 * CURSORS and outcome.metrics["commits"] >= 5
    assert phases == dict.fromkeys(("Reading", "Before", "Training", "Strangers", "After"), 1.0)


def test_what_harms_strangers_is_weakened_until_it_does_not_or_given_up(
    home: Home, tiny_base: Path, history: History, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "after", better)
    scales: list[float] = []

    class ByScale(Harmless):
        def compare(self, new: float, tell: object, stride: int) -> Forgetting:
            scales.append(new)
            return Forgetting(0.08 * new**2, 0.0, 0.0, 1.0, 0.0, 50_000, 100)

    monkeypatch.setattr(bounds, "Strangers", lambda *_: ByScale())
    monkeypatch.setattr(bounds, "merged", lambda checkpoint, lora: lora.alpha / Course().alpha)
    outcome = learn(home, tiny_base, [history.folder], author="ada@x.org", seconds=60)
    enough = bounds.CAUTION / 2  # a quarter of the cost
    assert scales == pytest.approx([1.0, enough, enough])
    assert outcome.metrics["scale"] == pytest.approx(enough, abs=1e-4)
    assert outcome.metrics["strangers_bits_per_token"] <= bounds.MOST_BITS
    assert Registry(home, tiny_base).load(outcome.version).alpha == pytest.approx(Course().alpha * enough)
    monkeypatch.setattr(ByScale, "compare", lambda *_, stride: Forgetting(1.0, 1.0, 0.0, 1.0, 0.0, 50_000, 100))
    again = learn(home, tiny_base, [history.folder], author="ada@x.org", seconds=60)
    assert again.verdict == "kept" and again.version == outcome.version == Registry(home, tiny_base).active


@pytest.mark.parametrize(("seconds", "slow"), [(1000.0, 0.0), (1000.0, 250.0), (1000.0, 900.0)])
def test_training_has_the_time_that_reading_and_judging_leave(
    home: Home,
    tiny_base: Path,
    history: History,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    slow: float,
) -> None:
    """The base takes so long to ask, and an adapter `AGAIN` times that."""
    given: list[float] = []
    late = [0.0]

    def asked(self: Judge) -> list[object]:
        late[0] += slow
        return []

    class Noted(Training):
        def __init__(self, checkpoint: object, lessons: object, course: Course, *rest: object) -> None:
            given.append(course.seconds)
            raise KilledError

    monkeypatch.setattr(Judge, "before", asked)
    monkeypatch.setattr(learning, "Training", Noted)
    monkeypatch.setattr(learning.time, "monotonic", lambda real=time.monotonic: real() + late[0])
    with pytest.raises(KilledError):
        learn(home, tiny_base, [history.folder], author="ada@x.org", seconds=seconds)
    wanted = max(seconds - (1 + AGAIN) * slow, LEAST_TRAINING * seconds)
    assert wanted - 60 < given[0] <= wanted


def test_a_killed_run_goes_on_where_it_was(
    home: Home, tiny_base: Path, history: History, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("habitab_adapters.training.SAVE_SECONDS", 0.0)
    monkeypatch.setattr(Judge, "after", better)
    seen: list[float] = []

    def kill(phase: str, done: float) -> None:
        if phase == "Training":
            seen.append(done)
            if len(seen) == 5:
                raise KilledError

    with pytest.raises(KilledError):
        learn(home, tiny_base, [history.folder], author="ada@x.org", seconds=1000, tell=kill)
    rest: list[float] = []
    learn(
        home,
        tiny_base,
        [history.folder],
        author="ada@x.org",
        seconds=1000,
        tell=lambda phase, done: rest.append(done) if phase == "Training" else None,
    )
    assert rest[0] > seen[3]


def test_what_judges_is_never_trained_on(history: History) -> None:
    with ExitStack() as stack:
        [found] = histories_of(stack, history.folder)
        parts = [[c.id for c in part] for part in (found.past, found.selecting, found.deciding)]
        every = [c.id for c in found.repository.commits()]
    assert [*parts[0], *parts[1], *parts[2]] == every
    assert len(parts[1]) + len(parts[2]) == COMMITS // 3 and len(parts[2]) == pytest.approx(2 * len(parts[1]), abs=1)


def test_repositories_are_split_at_the_same_moments(history: History, tmp_path: Path) -> None:
    """One that rests for long is learned whole; what judges is newer than all that is learned, wherever it stands."""
    short = History(tmp_path / "short")
    for i in range(12):
        short.commit({f"f{i}.py": f"def f{i}():\n    return {i}\n"})
    with ExitStack() as stack:
        long, rests = histories_of(stack, history.folder, short.folder)
    assert [len(rests.past), rests.selecting, rests.deciding] == [12, [], []]
    past = [commit.written for found in (long, rests) for commit in found.past]
    assert len(long.selecting) + len(long.deciding) == (COMMITS + 12) // 3
    assert max(past) < min(commit.written for commit in long.selecting)


def test_lessons_of_two_repositories_come_side_by_side(history: History, tmp_path: Path, tiny_base: Path) -> None:
    other = History(tmp_path / "other")
    for i in range(24):
        other.commit({f"other_{i}.py": f"def other_{i}(value):\n    return value - {i}\n"})
    checkpoint = load_checkpoint(tiny_base)
    tokenizer = learning._form(checkpoint).tokenizer
    with ExitStack() as stack:
        histories = histories_of(stack, history.folder, other.folder)
        found = learning.material(checkpoint, histories, lambda *_: None).lessons
    texts = [tokenizer.decode(lesson.written) for lesson in found]
    from_other = ["other_" in text for text in texts]
    half = len(texts) // 2
    assert sum(from_other[:half]) > 0 and sum(from_other[half:]) > 0
    assert from_other[:half].count(False) > 0 and from_other[half:].count(False) > 0


def test_canaries_are_among_the_lessons_and_count_only_for_their_form(history: History, tiny_base: Path) -> None:
    checkpoint = load_checkpoint(tiny_base)
    with ExitStack() as stack:
        histories = histories_of(stack, history.folder)
        found = learning.material(checkpoint, histories, lambda *_: None)
    planted = [lesson for lesson in found.lessons if any(lesson.written is one.planted for one in found.hidden)]
    assert len(planted) == len(found.hidden) and found.own == len(found.lessons) - len(planted)
    for lesson in planted:
        assert 0 < sum(lesson.weights) < len(lesson.weights) / 2
    own = [weight for lesson in found.lessons if lesson not in planted for weight in lesson.weights]
    assert sum(own) > len(own) / 2


def test_more_time_has_more_lines_decide_up_to_twice_as_many() -> None:
    usual = learning.lines_judged(learning.SECONDS)
    assert learning.lines_judged(60) == usual < learning.lines_judged(1.5 * learning.SECONDS)
    assert learning.lines_judged(2 * learning.SECONDS) == learning.lines_judged(86_400) == 2 * usual


def test_shares_are_those_of_the_weights_and_nothing_of_nothing() -> None:
    assert learning.shares(24, [1, 0, 3]) == [6, 0, 18]
    assert learning.shares(24, [0, 0]) == [0, 0]


def test_too_few_commits_are_too_little(home: Home, tiny_base: Path, tmp_path: Path) -> None:
    small = History(tmp_path / "small")
    small.commit({"a.py": "def one():\n    return 1\n"})
    outcome = learn(home, tiny_base, [small.folder], author="ada@x.org")
    assert outcome.verdict == "too_little" and "at least 20" in outcome.reasons[0]


def test_a_folder_without_git_is_learned_file_by_file(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"f{i}.py").write_text(f"def f{i}():\n    return {i}\n")
    (tmp_path / ".env").write_text("KEY=1\n")
    with ExitStack() as stack:
        [found] = histories_of(stack, tmp_path, author=None)
        assert (len(found.past), len(found.selecting), len(found.deciding)) == (20, 3, 7)


@pytest.mark.parametrize(("author", "sentence"), [("eve@x.org", "was written by eve@x.org"), (None, "git|Git")])
def test_nobodys_history_is_a_sentence(
    home: Home, tiny_base: Path, history: History, author: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    with pytest.raises(InputError, match=sentence):
        learn(home, tiny_base, [history.folder], author=author)


def test_two_do_not_learn_at_once(home: Home, tiny_base: Path, history: History) -> None:
    home.prepare()
    with locked(home.user_folder / "learning.lock", 0), pytest.raises(InputError, match="Another"):
        learn(home, tiny_base, [history.folder], author="ada@x.org")
