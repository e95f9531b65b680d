"""What today's text says is written, by the real decoder, and never against what must be written."""

from __future__ import annotations

import threading

import pytest
import torch

from habitab_engine.engine import Engine
from habitab_engine.memory import Memory
from habitab_engine.recall import Feed, Recall, recall_at
from habitab_engine.types import CompletionRequest, OpenText

NAME = "quarzphiltrum_zaehler"


def memory_of(engine: Engine, text: str) -> Memory:
    memory = Memory(engine.tokenizer.encode, engine.model.config.vocab)
    memory.update("other", text)
    return memory


def logprobs_of(engine: Engine, *likely: int) -> torch.Tensor:
    logits = torch.zeros(engine.model.config.vocab)
    logits[list(likely)] = 9.0
    return logits.log_softmax(0)


def test_probabilities_stay_probabilities(tiny_engine: Engine) -> None:
    encode = tiny_engine.tokenizer.encode
    recall = Recall(memory_of(tiny_engine, "alpha = beta + gamma\n"), None)
    mixed = recall.mixed(logprobs_of(tiny_engine, 5), encode("alpha ="), None)
    assert float(mixed.exp().sum()) == pytest.approx(1.0, abs=1e-4)
    assert mixed[encode(" beta")[0]] > logprobs_of(tiny_engine, 5)[encode(" beta")[0]]


def test_an_empty_memory_changes_nothing(tiny_engine: Engine) -> None:
    model = logprobs_of(tiny_engine, 5)
    recall = recall_at(memory_of(tiny_engine, ""), "x = foo", "", "foo", True)
    assert torch.equal(recall.mixed(model, [1, 2, 3], None), model)
    assert recall.draft([1, 2, 3]) == []


def test_what_may_not_come_is_not_mixed_in(tiny_engine: Engine) -> None:
    encode, model = tiny_engine.tokenizer.encode, logprobs_of(tiny_engine, 5)
    recall = Recall(memory_of(tiny_engine, "alpha = beta + gamma\n"), None)
    assert torch.equal(recall.mixed(model, encode("alpha ="), [5, 6]), model)


def test_what_most_places_agree_on_is_drafted(tiny_engine: Engine) -> None:
    text = "def total(values, start):\n    result = start\n    for value in values:\n        result += value\n"
    recall = Recall(memory_of(tiny_engine, text), None)
    tokens = tiny_engine.tokenizer.encode(text)
    assert recall.draft(tokens[:20]) == tokens[20:27]
    torn = Recall(memory_of(tiny_engine, "key = alpha\nkey = beta\nkey = gamma\n"), None)
    assert torn.draft(tiny_engine.tokenizer.encode("key =")) == []


def complete(engine: Engine, prefix: str, memory: bool, document: str) -> str:
    request = CompletionRequest(document, "a.py", prefix, "\n", sources=(), memory=memory, budget_ms=60_000)
    done = engine.complete(request, threading.Event())
    engine.forget(document)
    return done.suggestions[0].text if done.suggestions else ""


def test_a_name_typed_once_today_is_completed_at_its_second_use(base_engine: Engine) -> None:
    first = f"def start():\n    {NAME} = 0\n    return run()\n\n\ndef stop():\n    print(qua"
    assert not complete(base_engine, "def stop():\n    print(qua", True, "empty").startswith(NAME[3:])
    assert complete(base_engine, first, True, "with").startswith(NAME[3:])


def test_a_name_of_another_open_document_is_known_until_it_is_closed(base_engine: Engine) -> None:
    base_engine.observe(OpenText("other", f"{NAME} = 0\n"))
    try:
        assert complete(base_engine, "def stop():\n    print(qua", True, "one").startswith(NAME[3:])
        assert not complete(base_engine, "def stop():\n    print(qua", False, "one").startswith(NAME[3:])
    finally:
        base_engine.forget("other")
    assert not complete(base_engine, "def stop():\n    print(qua", True, "one").startswith(NAME[3:])


def test_files_reach_the_memory_from_any_thread(tiny_engine: Engine) -> None:
    memory = Memory(tiny_engine.tokenizer.encode, tiny_engine.model.config.vocab)
    feed = Feed(memory)
    text = "alpha = beta + gamma\n"
    threads = [threading.Thread(target=feed.add, args=(f"/w/{i}.py", f"{text}x{i} = {i}\n")) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    feed.settle()
    found = memory.predict(tiny_engine.tokenizer.encode("alpha ="))
    assert found is not None and tiny_engine.tokenizer.encode(" beta")[0] in found.ids
    for i in range(4):
        feed.remove(f"/w/{i}.py")
    assert memory.predict(tiny_engine.tokenizer.encode("alpha =")) is None
