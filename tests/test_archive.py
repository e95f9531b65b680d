"""An adapter that is carried away is the same elsewhere, and of somebody else's file nothing is believed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import stat
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from conftest import write_tiny
from habitab_adapters import archive
from habitab_adapters.archive import MANIFEST, export_adapter, import_adapter
from habitab_adapters.container import MOST_MEMBERS
from habitab_adapters.registry import CONFIG, WEIGHTS, Registry
from habitab_engine.adapters import FACTS
from habitab_engine.checkpoint import Checkpoint, load_checkpoint
from habitab_engine.config import EngineSettings
from habitab_engine.engine import Engine
from habitab_engine.errors import AdapterError, InputError
from habitab_engine.home import Home
from habitab_engine.merging import update_of
from habitab_engine.types import CompletionRequest
from loras import facts_of, random_lora

METRICS = {"rows": 1600, "bits_per_byte": -0.031, "interval": [0.01, 0.05], "verdict": "promoted"}
CREATED = "2026-11-26T21:00:00Z"


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Checkpoint:
    return load_checkpoint(tiny_base)


@pytest.fixture
def ann(tmp_path: Path, tiny_base: Path, base: Checkpoint) -> Registry:
    """A person with one version, which is active."""
    registry = Registry(Home(tmp_path / "ann's", "ann"), tiny_base)
    registry.add(random_lora(base), facts_of(base, metrics=METRICS, created=CREATED))
    registry.activate("v1")
    return registry


@pytest.fixture
def bob(tmp_path: Path, tiny_base: Path) -> Registry:
    return Registry(Home(tmp_path / "bob's", "bob"), tiny_base)


@pytest.fixture
def carried(ann: Registry, tmp_path: Path) -> Path:
    export_adapter(ann, None, tmp_path / "a.habitab")
    return tmp_path / "a.habitab"


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def measure(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def packed(contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name, content in contents.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def remade(file: Path, manifest: dict[str, Any] | None = None, **contents: bytes) -> bytes:
    """The file with other members or another manifest, which tells the truth of them."""
    found = members(file) | {{"config": CONFIG, "weights": WEIGHTS}[name]: data for name, data in contents.items()}
    said = json.loads(found[MANIFEST])
    said["members"] = {name: measure(found[name]) for name in (CONFIG, WEIGHTS)}
    found[MANIFEST] = json.dumps(said | (manifest or {})).encode()
    return packed(found)


def refused(registry: Registry, file: Path, data: bytes) -> str:
    """The sentence with which `data` is refused; nothing is kept of it."""
    file.with_name("b.habitab").write_bytes(data)
    with pytest.raises(AdapterError) as caught:
        import_adapter(registry, file.with_name("b.habitab"), activate=True)
    sentence = str(caught.value)
    assert (registry.versions(), registry.active) == ([], None)
    assert sentence.endswith(".") and "\n" not in sentence and "\x1b" not in sentence
    assert "b.habitab" in sentence and "/tmp/habitab-" not in sentence
    return sentence


# ---- carried away and brought ----


def test_export_and_import_give_bit_identical_tensors_and_the_same_completions(
    ann: Registry, bob: Registry, carried: Path, tiny_base: Path
) -> None:
    found = import_adapter(bob, carried, activate=True)
    assert (found.version, found.known, bob.active) == ("v1", False, "v1")
    ours, theirs = ann.load("v1"), bob.load("v1")
    assert (ours.rank, ours.alpha, ours.factors.keys()) == (theirs.rank, theirs.alpha, theirs.factors.keys())
    for name, factors in ours.factors.items():
        for mine, yours in zip(factors, theirs.factors[name], strict=True):
            assert mine.dtype == yours.dtype and mine.tobytes() == yours.tobytes()
    for name in (CONFIG, WEIGHTS):
        assert (ann.path("v1") / name).read_bytes() == (bob.path("v1") / name).read_bytes()
    settings = EngineSettings(base=str(tiny_base), threads=1, kernel="int8")
    request = CompletionRequest("d", "a.py", "def area(w, h):\n    return ", "\n", count=3, max_tokens=8)
    written = []
    for adapters in (ann.folder, bob.folder, None):
        engine = Engine.load(settings, adapters)
        written.append([(one.text, one.logprobs) for one in engine.complete(request, never()).suggestions])
        engine.close()
    assert written[0] == written[1] != written[2]


def never() -> Any:
    import threading

    return threading.Event()


def test_what_was_known_of_it_travels_but_not_its_place_in_a_person_s_history(
    ann: Registry, bob: Registry, base: Checkpoint, tmp_path: Path
) -> None:
    ann.add(random_lora(base, seed=1), facts_of(base, metrics=METRICS, created=CREATED, parent="v1"))
    export_adapter(ann, "v2", tmp_path / "a.habitab")
    import_adapter(bob, tmp_path / "a.habitab")
    facts = dict(bob.info("v1").facts)
    assert facts == dict(ann.info("v2").facts) | {"version": "v1", "parent": None}


def test_an_imported_adapter_stays_inactive_until_it_is_activated(bob: Registry, carried: Path) -> None:
    assert import_adapter(bob, carried).version == "v1"
    assert bob.active is None


def test_what_is_there_already_is_not_kept_twice(ann: Registry, bob: Registry, carried: Path) -> None:
    assert [import_adapter(bob, carried).known for _ in range(3)] == [False, True, True]
    assert [version.name for version in bob.versions()] == ["v1"]
    found = import_adapter(ann, carried)
    assert (found.version, found.known) == ("v1", True)


def test_the_same_tensors_at_another_scale_are_another_adapter(
    ann: Registry, bob: Registry, base: Checkpoint, carried: Path, tmp_path: Path
) -> None:
    ann.add(random_lora(base).scaled(0.5), facts_of(base))
    export_adapter(ann, "v2", tmp_path / "half.habitab")
    assert ann.info("v1").facts["sha256"] == ann.info("v2").facts["sha256"]
    assert [import_adapter(bob, file).version for file in (carried, tmp_path / "half.habitab")] == ["v1", "v2"]
    assert (bob.load("v1").alpha, bob.load("v2").alpha) == (8.0, 4.0)


def test_the_file_is_a_zip_without_compression_whose_manifest_says_what_it_holds(
    carried: Path, base: Checkpoint
) -> None:
    with zipfile.ZipFile(carried) as opened:
        assert opened.namelist() == [MANIFEST, CONFIG, WEIGHTS]
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}
    found = members(carried)
    assert json.loads(found[MANIFEST]) == {
        "format": 1,
        "base": {"id": "tiny", "sha256": base.sha256},
        "created": CREATED,
        "method": "ce",
        "rank": 4,
        "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        "metrics": METRICS,
        "members": {name: measure(found[name]) for name in (CONFIG, WEIGHTS)},
    }
    assert json.loads(found[CONFIG])["base_model_name_or_path"] == "tiny"


def test_no_path_and_no_name_of_the_person_is_in_the_file(carried: Path, tmp_path: Path) -> None:
    data = carried.read_bytes()
    assert not [word for word in (str(tmp_path), "ann", "signals", Path.home().name + "/") if word.encode() in data]


def test_the_same_adapter_gives_the_same_bytes(ann: Registry, carried: Path, tmp_path: Path) -> None:
    export_adapter(ann, "v1", tmp_path / "again.habitab")
    assert (tmp_path / "again.habitab").read_bytes() == carried.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
@pytest.mark.parametrize("kind", archive.KINDS)
def test_an_export_is_readable_by_the_person_only(ann: Registry, tmp_path: Path, kind: str) -> None:
    export_adapter(ann, None, tmp_path / "out", kind)
    for path in [tmp_path / "out", *(tmp_path / "out").glob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an old name
def test_peft_loads_the_folder_onto_the_exported_base(ann: Registry, base: Checkpoint, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    export_adapter(ann, "v1", tmp_path / "out", "peft")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [CONFIG, WEIGHTS]
    config = transformers.AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(config, tmp_path / "out").merge_and_unload()
    state, lora = model.state_dict(), ann.load("v1")
    for name, tensor in base.tensors.items():
        wanted = tensor.float() + (update_of(lora, name) if name in lora.factors else 0)
        assert torch.allclose(state[name], wanted, atol=1e-5), name


def test_a_rank_of_16_on_the_real_base_is_small_and_quickly_carried(tmp_path: Path) -> None:
    embedded = load_checkpoint(None)
    ann, bob = (Registry(Home(tmp_path / name, name)) for name in ("ann", "bob"))
    ann.add(random_lora(embedded, rank=16, size=0.01), facts_of(embedded, metrics=METRICS))
    started = time.perf_counter()
    export_adapter(ann, "v1", tmp_path / "a.habitab")
    exported = time.perf_counter()
    import_adapter(bob, tmp_path / "a.habitab")
    print(f"export {exported - started:.2f} s, import {time.perf_counter() - exported:.2f} s")
    assert max(exported - started, time.perf_counter() - exported) < 2
    assert (tmp_path / "a.habitab").stat().st_size <= 25e6


# ---- what cannot be exported ----


@pytest.mark.parametrize("kind", archive.KINDS)
def test_an_export_never_overwrites_and_leaves_nothing_where_it_fails(ann: Registry, tmp_path: Path, kind: str) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="mine exists"):
        export_adapter(ann, "v1", tmp_path / "mine", kind)
    with pytest.raises(InputError, match="cannot be written"):
        export_adapter(ann, "v1", tmp_path / "mine" / "x", kind)
    with pytest.raises(InputError, match="cannot be written"):
        export_adapter(ann, "v1", tmp_path / "no" / "x", kind)
    assert {path.name for path in tmp_path.iterdir()} == {"ann's", "mine"}
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_disk_that_fills_up_leaves_nothing_behind(
    ann: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="No space left"):
        export_adapter(ann, "v1", tmp_path / "out" / "x")
    assert list((tmp_path / "out").iterdir()) == []


def test_without_an_active_version_an_export_wants_a_name(ann: Registry, tmp_path: Path) -> None:
    ann.activate(None)
    with pytest.raises(AdapterError, match="No adapter is active"):
        export_adapter(ann, None, tmp_path / "x")
    with pytest.raises(AdapterError, match="no version v9"):
        export_adapter(ann, "v9", tmp_path / "x")


@pytest.mark.parametrize("kind", archive.KINDS)
def test_a_damaged_version_is_not_exported(ann: Registry, tmp_path: Path, kind: str) -> None:
    os.truncate(ann.path("v1") / WEIGHTS, 500)
    with pytest.raises(AdapterError, match="v1 is damaged"):
        export_adapter(ann, "v1", tmp_path / "x", kind)
    assert not (tmp_path / "x").exists()


# ---- what cannot be imported ----


def test_an_adapter_of_another_base_is_refused(carried: Path, tmp_path: Path, bob: Registry) -> None:
    other = Registry(bob.home, write_tiny(tmp_path / "other"))
    assert "made for the base model tiny, and this is other" in refused(other, carried, carried.read_bytes())
    weights = bytearray((write_tiny(tmp_path / "x" / "tiny") / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "x" / "tiny" / "model.safetensors").write_bytes(weights)
    changed = Registry(bob.home, tmp_path / "x" / "tiny")
    assert "made for other weights of tiny" in refused(changed, carried, carried.read_bytes())


def other_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], bytes]:
    def make(file: Path) -> bytes:
        tensors = load(members(file)[WEIGHTS])
        change(tensors)
        return remade(file, weights=save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    return make


def other_config(**changes: Any) -> Callable[[Path], bytes]:
    return lambda file: remade(file, config=json.dumps(json.loads(members(file)[CONFIG]) | changes).encode())


def other_manifest(**changes: Any) -> Callable[[Path], bytes]:
    return lambda file: remade(file, manifest=changes)


def raw_manifest(text: str) -> Callable[[Path], bytes]:
    return lambda file: packed(members(file) | {MANIFEST: text.encode()})


def with_member(name: str, content: bytes = b"x") -> Callable[[Path], bytes]:
    return lambda file: packed(members(file) | {name: content})


def with_info(**changes: Any) -> Callable[[Path], bytes]:
    """The weights' entry is not that of a plain file."""

    def make(file: Path) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as opened:
            for name, content in members(file).items():
                info = zipfile.ZipInfo(name)
                if name == WEIGHTS:
                    for key, value in changes.items():
                        setattr(info, key, value)
                opened.writestr(info, content)
        return buffer.getvalue()

    return make


def encrypted(file: Path) -> bytes:
    data = bytearray(file.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def patched(old: bytes, new: bytes) -> Callable[[Path], bytes]:
    return lambda file: file.read_bytes().replace(old, new)


def without(name: str) -> Callable[[Path], bytes]:
    return lambda file: packed({key: value for key, value in members(file).items() if key != name})


def twice(name: str) -> Callable[[Path], bytes]:
    def make(file: Path) -> bytes:
        with pytest.warns(UserWarning, match="Duplicate name"):
            buffer = io.BytesIO(file.read_bytes())
            with zipfile.ZipFile(buffer, "a") as opened:
                opened.writestr(name, b"{}")
        return buffer.getvalue()

    return make


def bomb(file: Path) -> bytes:
    return packed(members(file) | {WEIGHTS: b"\0" * 60_000_000}, zipfile.ZIP_DEFLATED)


def overlapping(file: Path) -> bytes:
    """A directory whose every entry is the same large piece of the file."""
    data = bytearray(packed({f"{number:02}": b"\0" * (1_000_000 if not number else 0) for number in range(12)}))
    place = struct.unpack("<L", data[-6:-2])[0]
    first = data[place:]
    size, crc = first[20:28], first[16:20]
    while data[place : place + 4] == b"PK\x01\x02":
        data[place + 20 : place + 28], data[place + 16 : place + 20] = size, crc
        data[place + 42 : place + 46] = b"\0\0\0\0"
        place += 46 + 2
    return bytes(data)


def first_tensor(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[min(tensors)].view(-1)[:1].fill_(value)


def reshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)] = tensors[min(tensors)].T


def renamed(tensors: dict[str, torch.Tensor]) -> None:
    tensors["os.system\x1b[2J"] = tensors.pop(min(tensors))


def integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)] = tensors[min(tensors)].to(torch.int32)


HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    # the zip
    "empty": (lambda file: b"", "no zip"),
    "text": (lambda file: b"once upon a time", "no zip"),
    "pickle": (lambda file: pickle.dumps({"weights": [1.0]}), "no zip"),
    "empty zip": (lambda file: packed({}), "no zip"),
    "cut": (lambda file: file.read_bytes()[:-40], "cut off"),
    "cut early": (lambda file: file.read_bytes()[:40], "cut off"),
    "only a signature": (lambda file: b"PK\x03\x04", "cut off"),
    "added behind": (lambda file: file.read_bytes() + b"import os", "added behind"),
    "comment": (lambda file: file.read_bytes()[:-2] + b"\x05\0hello", "added behind"),
    "put before": (lambda file: b"PK\x03\x04#!/bin/sh\n" + file.read_bytes(), "put before"),
    "two disks": (lambda file: file.read_bytes()[:-18] + b"\1\0" + file.read_bytes()[-16:], "damaged"),
    "bits": (patched(b'"rank": 4', b'"rank": 5'), "damaged"),
    "local name": (lambda file: file.read_bytes().replace(CONFIG.encode(), b"adapter_confiG.json", 1), "damaged"),
    "many members": (lambda file: packed({str(n): b"" for n in range(MOST_MEMBERS + 1)}), "more members"),
    "zip64": (lambda file: file.read_bytes()[:-42] + b"PK\6\7" + b"\0" * 16 + file.read_bytes()[-22:], "more members"),
    "bomb": (bomb, "is compressed"),
    "overlapping": (overlapping, "larger than the file"),
    "compressed": (lambda file: packed(members(file), zipfile.ZIP_DEFLATED), "is compressed"),
    "lzma": (lambda file: packed(members(file), zipfile.ZIP_LZMA), "is compressed"),
    "oversized": (lambda file: b"PK\x03\x04" + b"\0" * 65_000_000, "larger than 64.2 MB"),
    "twice": (twice(CONFIG), "twice"),
    # its members
    "parent": (with_member("../evil.py"), "outside"),
    "deep parent": (with_member("a/../../evil.py"), "outside"),
    "absolute": (with_member("/etc/evil"), "outside"),
    "backslash": (with_member("..\\evil"), "outside"),
    "drive": (with_member("C:evil"), "outside"),
    "share": (with_member("\\\\host\\share"), "outside"),
    "nul": (lambda file: with_member("evil_py")(file).replace(b"evil_py", b"evil\0py"), "outside"),
    "link": (with_info(external_attr=(stat.S_IFLNK | 0o777) << 16), "is a link"),
    "device": (with_info(external_attr=(stat.S_IFCHR | 0o600) << 16), "is not a file"),
    "folder": (with_member("code/"), "is not a file"),
    "encrypted": (encrypted, "is encrypted"),
    "code": (with_member("setup.py"), "'setup.py' is no part of an adapter"),
    "in a folder": (with_member("code/x.py"), "is no part of an adapter"),
    "signals": (with_member("signals.db"), "is no part of an adapter"),
    "escape": (with_member("\x1b[2Jx"), "is no part of an adapter"),
    "pickled member": (with_member("adapter_model.bin", pickle.dumps([1])), "is a pickle file"),
    "torch's own format": (lambda file: torch_saved(), "is a pickle file"),
    "no manifest": (without(MANIFEST), "no manifest.json"),
    "no weights": (without(WEIGHTS), f"{WEIGHTS} is missing"),
    "no config": (without(CONFIG), f"{CONFIG} is missing"),
    # the manifest
    "no JSON": (raw_manifest("hello"), "manifest.json is damaged"),
    "no object": (raw_manifest("[1]"), "manifest.json is damaged"),
    "nested": (raw_manifest("[" * 100_000), "manifest.json is damaged"),
    "not UTF-8": (lambda file: packed(members(file) | {MANIFEST: b"\xff\xfe"}), "manifest.json is damaged"),
    "names twice": (raw_manifest('{"format": 1, "format": 1}'), "gives a name twice"),
    "newer": (other_manifest(format=2), "its format is '2'"),
    "newer with a signature": (other_manifest(format=2, signature="x"), "its format is '2'"),
    "odd format": (other_manifest(format=True), "its format is 'True'"),
    "no format": (raw_manifest("{}"), "its format is 'None'"),
    "signature": (other_manifest(signature="x"), "says 'signature', which this habitab does not know"),
    "odd key": (other_manifest(**{"\x1b[2J": 1}), "which this habitab does not know"),
    "no base": (lambda file: raw_manifest(json.dumps(less(file, "base")))(file), "does not say 'base'"),
    "odd base": (other_manifest(base="tiny"), "'base' in its manifest"),
    "path as base": (other_manifest(base={"id": "/home/ann/base", "sha256": "0" * 64}), "'base' in its manifest"),
    "other base": (other_manifest(base={"id": "x\u202ey", "sha256": "0" * 64}), "made for the base model"),
    "created": (other_manifest(created="today, at home"), "'created' in its manifest"),
    "method": (other_manifest(method="import os"), "'method' in its manifest"),
    "code in metrics": (other_manifest(metrics={"x": "def f(): pass"}), "short numbers and words"),
    "path in metrics": (other_manifest(metrics={"x": "/home/ann"}), "short numbers and words"),
    "code as a name": (other_manifest(metrics={"def f()": 1}), "short numbers and words"),
    "text in metrics": (other_manifest(metrics={"x": "a" * 41}), "short numbers and words"),
    "long metrics": (other_manifest(metrics={f"x{n}": n for n in range(5_000)}), "short numbers and words"),
    "large number": (lambda file: raw_metrics(file, "1" + "0" * 300), "short numbers and words"),
    "huge number": (lambda file: raw_metrics(file, "1" * 10_000), "manifest.json is damaged"),
    "infinity": (lambda file: raw_metrics(file, "1e999"), "short numbers and words"),
    "NaN": (lambda file: raw_metrics(file, "NaN"), "NaN or infinity"),
    "rank": (other_manifest(rank=8), "another rank"),
    "modules": (other_manifest(target_modules=["q_proj"]), "other target modules"),
    "members' names": (other_manifest(members={}), "not those of an adapter"),
    "members are a list": (other_manifest(members=[CONFIG, WEIGHTS]), "not those of an adapter"),
    "size": (lambda file: lying(file, size=1), f"size or checksum of {WEIGHTS}"),
    "hash": (lambda file: lying(file, sha256="0" * 64), f"size or checksum of {WEIGHTS}"),
    "no hash": (lambda file: remade(file, {"members": {CONFIG: {}, WEIGHTS: None}}), f"size or checksum of {CONFIG}"),
    # PEFT's files
    "config of another base": (other_config(base_model_name_or_path="/home/ann/base"), "made for the base model"),
    "config is no JSON": (lambda file: remade(file, config=b"{"), "is not JSON"),
    "not a LoRA": (other_config(peft_type="IA3"), "does not describe a LoRA"),
    "rank over the limit": (other_config(r=65), "its rank"),
    "alpha": (other_config(lora_alpha=-1), "its lora_alpha"),
    "weights are a pickle": (lambda file: remade(file, weights=pickle.dumps([1.0])), "cut off or damaged"),
    "weights are nothing": (lambda file: remade(file, weights=b""), "cut off or damaged"),
    "weights with a huge header": (lambda file: remade(file, weights=b"\xff" * 64), "cut off or damaged"),
    "NaN in a tensor": (other_tensors(first_tensor(float("nan"))), "not finite"),
    "infinity in a tensor": (other_tensors(first_tensor(float("inf"))), "not finite"),
    "wrong shape": (other_tensors(reshaped), "is wanted"),
    "unknown tensor": (other_tensors(renamed), "no place in this base"),
    "integers": (other_tensors(integers), "is stored as"),
    "half of it": (other_tensors(lambda tensors: tensors.pop(min(tensors))), "both its factors"),
    "no tensors": (other_tensors(lambda tensors: tensors.clear()), "both its factors"),
}  # fmt: skip


def torch_saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, buffer)
    return packed({name: b"" for name in zipfile.ZipFile(buffer).namelist()})


def less(file: Path, key: str) -> dict[str, Any]:
    said = json.loads(members(file)[MANIFEST])
    del said[key]
    return dict(said)


def raw_metrics(file: Path, number: str) -> bytes:
    text = json.dumps(json.loads(members(file)[MANIFEST]) | {"metrics": {"x": "HERE"}})
    return raw_manifest(text.replace('"HERE"', number))(file)


def lying(file: Path, **lie: object) -> bytes:
    found = json.loads(members(file)[MANIFEST])["members"]
    return remade(file, {"members": found | {WEIGHTS: found[WEIGHTS] | lie}})


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_does_not_verify_is_refused_with_one_sentence(bob: Registry, carried: Path, kind: str) -> None:
    make, said = HOSTILE[kind]
    assert said in refused(bob, carried, make(carried))


def test_what_stands_beside_the_tensors_is_not_kept(bob: Registry, carried: Path) -> None:
    weights = save(load(members(carried)[WEIGHTS]), metadata={"note": "/home/ann/shop.py"})
    file = carried.with_name("b.habitab")
    config = json.dumps(json.loads(members(carried)[CONFIG]) | {"auto_mapping": {"parent_library": "os"}})
    file.write_bytes(remade(carried, weights=weights, config=config.encode()))
    version = import_adapter(bob, file).version
    assert not [path for path in bob.path(version).iterdir() if b"shop.py" in path.read_bytes()]
    assert json.loads((bob.path(version) / CONFIG).read_bytes())["auto_mapping"] is None
    assert sorted(path.name for path in bob.path(version).iterdir()) == [CONFIG, WEIGHTS, FACTS]


def test_no_file_no_folder_and_no_device_is_imported(bob: Registry, tmp_path: Path) -> None:
    for place in (tmp_path / "no", tmp_path, Path(os.devnull)):
        with pytest.raises(AdapterError, match="There is no file"):
            import_adapter(bob, place)


def test_any_damage_is_refused_in_one_sentence_or_changes_nothing(bob: Registry, carried: Path) -> None:
    """Bytes are changed, cut out and put in at random places."""
    drawn, data, file = random.Random(7), carried.read_bytes(), carried.with_name("b.habitab")
    edges = [*range(0, 700), *range(len(data) - 400, len(data))]
    for _ in range(300):
        hurt, place = bytearray(data), drawn.choice(edges)
        if drawn.random() < 0.6:
            hurt[place] ^= 1 << drawn.randrange(8)
        elif drawn.random() < 0.5:
            del hurt[place : place + drawn.randrange(1, 40)]
        else:
            hurt[place:place] = drawn.randbytes(drawn.randrange(1, 40))
        file.write_bytes(hurt)
        try:
            version = import_adapter(bob, file).version
        except AdapterError as error:
            assert str(error).endswith(".") and "\n" not in str(error)
        else:
            assert bob.path(version).joinpath(WEIGHTS).read_bytes() == members(carried)[WEIGHTS]


def test_a_refused_file_costs_little(bob: Registry, carried: Path) -> None:
    data = bomb(carried)
    started = time.process_time()
    refused(bob, carried, data)
    assert time.process_time() - started < 1
