"""An example is the prompt that the engine serves, what is to be written there, and the end."""

from __future__ import annotations

import errno
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from habitab_adapters.pretrain import shards
from habitab_adapters.pretrain.examples import DOCUMENTS, VALIDATION, Examples, Recipe, describe, make, read
from habitab_adapters.pretrain.fim import LONGEST, Document, Example, Maker, served
from habitab_adapters.pretrain.related import Package
from habitab_engine.base_files import EMBEDDED
from habitab_engine.engine import Engine
from habitab_engine.errors import InputError
from habitab_engine.families import HABITAB
from habitab_engine.prompt import Budget, build
from habitab_engine.tokenizer import Tokenizer
from habitab_engine.types import CompletionRequest, Folder, OpenText

TOKENIZER = Tokenizer(EMBEDDED)
IDS = TOKENIZER.special_ids
NAMES = {i: name for name, i in IDS.items()}
FILLING = Recipe(characters=20, plain=0.0, no_suffix=0.0, snippets=1.0)
AREA = "def area(width, height):\n    return width * height\n"
SHOP = (
    "from lib.area import area\n\n\n"
    "class Shop:\n    def size(self, width, height):\n        return area(width, height)\n\n"
    "    def price(self, width, height):\n        total = self.size(width, height) * self.rate\n        return total\n"
)
USE = "width = area(width, height)\n"
CORPUS = {"alpha": {"lib/area.py": AREA * 3, "lib/shop.py": SHOP}, "beta": {"b.py": SHOP * 9}, "gamma": {"c.py": AREA}}
HELD_OUT = "k28"  # a package that validation gets


def made(texts: dict[str, str], recipe: Recipe, seed: int = 0) -> list[Example]:
    """The examples of all documents of one package."""
    maker, package = Maker(recipe, TOKENIZER), Package(texts)
    documents = (Document("package", path, "python", text) for path, text in texts.items())
    return [example for document in documents for example in maker.examples(document, package, Random(seed))]


def text_of(ids: list[int]) -> str:
    return "".join(NAMES.get(i) or f"{TOKENIZER.pieces[i].decode('latin-1')}" for i in ids).encode("latin-1").decode()


def parts(example: Example) -> tuple[str, str, str]:
    """Path, suffix, and prefix with middle."""
    text = text_of(example.tokens)
    text = text[text.index("<filename>") + len("<filename>") :]
    path, _, text = text.partition("\n<fim_suffix>")
    suffix, _, text = text.partition("<fim_middle>")
    return path, suffix, text.removesuffix("<|endoftext|>")


def write(folder: Path, corpus: dict[str, dict[str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / DOCUMENTS, "wt") as file:
        for package, texts in corpus.items():
            for path, text in texts.items():
                fields = {"package": package, "path": path, "language": "python", "text": text}
                file.write(json.dumps(fields) + "\n")
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def nothing(*_: object) -> None:
    pass


@settings(max_examples=60)
@given(st.text(alphabet="ab(): \t\n\"'é中🐍\x0c", min_size=10, max_size=200), st.integers(0, 9))
def test_path_suffix_prefix_and_middle_make_the_document_again(text: str, seed: int) -> None:
    for example in made({"é/a.py": text}, FILLING, seed):
        path, suffix, before = parts(example)
        assert path == "é/a.py"
        assert before + suffix in text


def test_a_document_that_fits_is_there_as_a_whole() -> None:
    examples = made({"a.py": AREA}, Recipe(characters=2, plain=0.0, no_suffix=0.0, short=0.0))
    assert len(examples) > 10
    assert {before + suffix for _, suffix, before in map(parts, examples)} == {AREA}


def test_the_end_is_learned_where_the_suffix_joins_and_nowhere_else() -> None:
    for example in made({"shop.py": SHOP}, FILLING):
        assert example.tokens[-1] == IDS["<|endoftext|>"]
        assert example.tokens.count(IDS["<|endoftext|>"]) == 1
        assert example.weights[-1] == FILLING.end_weight


def test_special_names_in_a_document_are_text() -> None:
    text = "x = '<|endoftext|><fim_middle><filename>'\n" * 4
    for example in made({"a.py": text}, Recipe(characters=20)):
        specials = [NAMES[i] for i in example.tokens if i in NAMES]
        assert len(specials) == len(set(specials))


def test_only_suffix_snippets_paths_and_marks_weigh_nothing() -> None:
    examples = made(CORPUS["alpha"], Recipe(characters=8, snippets=1.0, no_suffix=0.1, short=0.3))
    assert any(example.tokens[0] == IDS["<file_sep>"] for example in examples)
    for example in examples:
        mark = IDS["<fim_middle>"]
        path = text_of(example.tokens[1:]).partition("\n")[0]
        plain = 1 + len(TOKENIZER.encode(HABITAB.path_line % path))
        given = plain if example.kind == "plain" else example.tokens.index(mark) + 1
        assert len(example.tokens) == len(example.weights)
        assert set(example.weights[:given]) == {0} and 0 not in example.weights[given:]


def test_prefix_and_middle_have_their_own_weights() -> None:
    recipe = Recipe(characters=20, plain=0.0, prefix_weight=3, middle_weight=10, end_weight=50)
    for example in made({"shop.py": SHOP}, recipe):
        weights = [weight for weight in example.weights if weight]
        assert weights == sorted(weights) and set(weights) >= {10, 50}
        assert set(weights) <= {3, 10, 50}


def test_plain_text_ends_with_the_document_only() -> None:
    ends = set()
    for example in made({"a.py": SHOP}, Recipe(characters=5, plain=1.0, plain_tokens=(20, 200))):
        text = text_of(example.tokens).removeprefix("<filename>a.py\n")
        assert text.removesuffix("<|endoftext|>") in SHOP
        assert text.endswith("<|endoftext|>") == SHOP.endswith(text.removesuffix("<|endoftext|>"))
        ends.add(text.endswith("<|endoftext|>"))
    assert ends == {True, False}


@settings(max_examples=25)
@given(
    st.text(alphabet="ab \n", max_size=40),
    st.text(alphabet="ab\"'é中\n ", min_size=1, max_size=40),
    st.sampled_from([1, 40, 300]),
    st.text(alphabet="abc/é", min_size=1, max_size=60),
    st.sampled_from([1, 20]),
)
def test_no_example_is_too_long(head: str, text: str, times: int, path: str, path_times: int) -> None:
    recipe = Recipe(characters=len(head) + len(text) * times, long_tokens=(896, 896), short=0.0)
    assert all(len(e.tokens) <= LONGEST for e in made({path * path_times: head + text * times}, recipe))


def test_the_prompt_is_the_one_that_the_engine_builds() -> None:
    """Nothing typed yet: the prompt is that of one request."""
    prefix, suffix = SHOP[:120], SHOP[140:]
    request = CompletionRequest("shop.py", "shop.py", prefix, suffix)
    budget = Budget.of(200)
    prompt = served(request, 0, lambda _: (), TOKENIZER, budget)
    assert prompt == build(request, TOKENIZER, HABITAB, budget)
    example = Maker(Recipe(), TOKENIZER).filled("rest", prompt, SHOP[120:140])
    assert example is not None
    assert example.tokens[: len(prompt.tokens)] == prompt.tokens
    rest = example.tokens[len(prompt.tokens) : -1]
    assert TOKENIZER.decode(rest) == prompt.healed + SHOP[120:140]


@pytest.mark.parametrize("typed", [0, 30, 400, 1_200, 20_000])
def test_after_typing_the_prompt_is_the_one_that_the_engine_serves(
    tiny_engine: Engine, tmp_path: Path, typed: int
) -> None:
    blocks = ("".join(f"item_{i}_{j} = '{i * j}'\n" for j in range(40)) + USE * 4 for i in range(6))
    texts = {"lib/area.py": AREA, "main.py": "from lib.area import area\n\n" + "".join(blocks)}
    (tmp_path / "lib").mkdir()
    for path, text in texts.items():
        (tmp_path / path).write_text(text)
    prefix, suffix = texts["main.py"][:-8], texts["main.py"][-2:]
    uri, file = f"file:///main-{typed}.py", str(tmp_path / "main.py")
    sources = ("open", "imports", "similar")
    tiny_engine.open_folder(Folder(str(tmp_path)))
    prompt = None
    for end in (max(len(prefix) - typed, 0), len(prefix)):
        asked = CompletionRequest(uri, "main.py", prefix[:end], suffix, root=str(tmp_path), file=file, sources=sources)
        tiny_engine.observe(OpenText(uri, asked.prefix + asked.suffix, file, str(tmp_path)))
        assert tiny_engine.settle(20)
        prompt = tiny_engine.prompt(asked, tiny_engine.slot(uri))
    tiny_engine.forget(uri)
    package, last = Package(texts), texts["main.py"].count("\n")
    request = CompletionRequest("main.py", "main.py", prefix, suffix)
    ours = served(request, typed, lambda asked: package.snippets(asked, last), TOKENIZER, tiny_engine.budget)
    assert ours == prompt
    assert IDS["<file_sep>"] in ours.tokens or typed in (400, 1_200)


def test_nothing_that_is_still_to_be_written_stands_in_a_snippet() -> None:
    text = "".join(f"def function_{i}(secret_{i}):\n    return secret_{i} + common_name\n\n\n" for i in range(40))
    package = Package({"a.py": text})
    for line in range(0, 100, 3):
        prefix = "".join(text.splitlines(keepends=True)[:line]) + "common_name"
        request = CompletionRequest("a.py", "a.py", prefix, "")
        found = "".join(snippet.text for snippet in package.snippets(request, line + 20))
        hidden = text.splitlines()[line : line + 21]
        assert not any(gone in found for gone in hidden if "secret" in gone)


def test_the_shards_hold_the_examples_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 2_000)
    counts = make(write(tmp_path / "c", CORPUS), tmp_path / "e", Recipe(characters=30), nothing)
    examples = read(tmp_path / "e")
    assert len(list((tmp_path / "e").glob("*.safetensors"))) > 1
    assert (
        len(examples)
        == len(examples.lengths)
        == sum(counts[kind] for kind in ("plain", "rest", "lines", "block", "span"))
    )
    for i, length in enumerate(examples.lengths):
        tokens, weights = examples[i]
        assert tokens.dtype == np.uint16 and weights.dtype == np.uint8
        assert len(tokens) == len(weights) == length <= LONGEST
        assert NAMES[int(tokens[0])] in ("<filename>", "<file_sep>")
    assert examples.lengths.sum() == counts["tokens"] == examples.counts["tokens"]
    assert f"{counts['tokens']:,} tokens" in describe(counts)
    with pytest.raises(IndexError):
        examples[len(examples)]


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(tmp_path: Path) -> None:
    corpus, recipe = write(tmp_path / "c", CORPUS), Recipe(characters=60)
    make(corpus, tmp_path / "one", recipe, nothing, seed=3)
    make(corpus, tmp_path / "two", recipe, nothing, seed=3, processes=2)
    make(corpus, tmp_path / "other", recipe, nothing, seed=4)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two") != bytes_of(tmp_path / "other")


@pytest.mark.parametrize("units", [1, 2, 3])
def test_an_interrupted_run_goes_on_behind_the_last_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: int
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 2_000)
    corpus = write(tmp_path / "c", CORPUS | {HELD_OUT: {"a.py": SHOP}})
    whole = make(corpus, tmp_path / "whole", Recipe(characters=30), nothing)
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        make(corpus, tmp_path / "e", Recipe(characters=30), _until(units, done))
    assert done == [2, 3, 4][:units]
    done.clear()
    assert make(corpus, tmp_path / "e", Recipe(characters=30), done.append) == whole
    assert len(done) < 4
    assert bytes_of(tmp_path / "e") == bytes_of(tmp_path / "whole")


def _until(calls: int, done: list[int]) -> Callable[[int], None]:
    def progress(documents: int) -> None:
        done.append(documents)
        if len(done) == calls:
            raise KeyboardInterrupt

    return progress


def test_a_run_that_is_done_is_left_as_it_is(tmp_path: Path) -> None:
    corpus, done = write(tmp_path / "c", CORPUS), []
    recipe = Recipe(snippets=0.0)
    counts = make(corpus, tmp_path / "e", recipe, nothing)
    before = bytes_of(tmp_path / "e")
    assert make(corpus, tmp_path / "e", recipe, done.append) == counts
    assert "with snippets 0" in describe(counts)
    assert done == [] and bytes_of(tmp_path / "e") == before


def test_a_package_for_validation_is_never_trained_on(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c", {HELD_OUT: {"held.py": AREA * 20}, "alpha": {"a.py": SHOP}})
    make(corpus, tmp_path / "e", Recipe(characters=50, snippets=0.0), nothing)

    def paths(examples: Examples) -> set[str]:
        return {text_of(examples[i][0].tolist()).partition("\n")[0] for i in range(len(examples))}

    assert paths(read(tmp_path / "e")) == {"<filename>a.py"}
    assert paths(read(tmp_path / "e" / VALIDATION)) == {"<filename>held.py"}


def test_examples_of_another_kind_are_not_mixed(tmp_path: Path) -> None:
    corpus = write(tmp_path / "c", CORPUS)
    make(corpus, tmp_path / "e", Recipe(), nothing)
    for recipe, seed in ((Recipe(plain=0.5), 0), (Recipe(), 1)):
        with pytest.raises(InputError, match="choose another folder"):
            make(corpus, tmp_path / "e", recipe, nothing, seed=seed)


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", '{"package": 1}', '{"package": "a", "path": "a", "language": "c", "text": "\\ud800"}']
)
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    corpus = write(tmp_path / "c", CORPUS)
    (corpus / DOCUMENTS).write_bytes((corpus / DOCUMENTS).read_bytes() + gzip.compress(line.encode() + b"\n"))
    with pytest.raises(InputError, match="Line 5 of"):
        make(corpus, tmp_path / "e", Recipe(), nothing)


def test_a_corpus_that_is_not_there_or_cut_off_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no corpus"):
        make(tmp_path, tmp_path / "e", Recipe(), nothing)
    corpus = write(tmp_path / "c", CORPUS)
    for data in ((corpus / DOCUMENTS).read_bytes()[:-30], b"no gzip"):
        (corpus / DOCUMENTS).write_bytes(data)
        with pytest.raises(InputError, match="is damaged"):
            make(corpus, tmp_path / "e", Recipe(), nothing)


def test_a_full_disk_leaves_no_half_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        make(write(tmp_path / "c", CORPUS), tmp_path / "e", Recipe(), nothing)
    assert list((tmp_path / "e").iterdir()) == []


def test_damaged_or_missing_shards_are_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no examples"):
        read(tmp_path)
    make(write(tmp_path / "c", CORPUS), tmp_path / "e", Recipe(), nothing)
    path = tmp_path / "e" / "examples-00000.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:5], whole[:50], whole[:-1], b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            read(tmp_path / "e")


def test_ends_get_their_share_of_the_loss() -> None:
    """With the default recipe, at least one part in 60 of the loss weighs on ends."""
    texts = {
        f"{i}.py": "".join(f"def function_{i}_{j}(a):\n    return a + {j}\n\n\n" for j in range(150)) for i in range(4)
    }
    examples = made(texts, Recipe(characters=100))
    ends = sum(e.weights[-1] for e in examples if e.tokens[-1] == IDS["<|endoftext|>"])
    assert ends * 60 >= sum(sum(e.weights) for e in examples)
