"""What all tests share: a home of their own for the run, and a tiny real model for speed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
_HOME = tempfile.mkdtemp(prefix="habitab-tests-")
os.environ["HABITAB_HOME"] = _HOME

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from habitab_engine.base_files import EMBEDDED, ModelConfig  # noqa: E402
from habitab_engine.config import EngineSettings  # noqa: E402
from habitab_engine.engine import Engine  # noqa: E402
from habitab_engine.kernels import usable  # noqa: E402
from habitab_engine.native import fills  # noqa: E402

# Nothing is timed on machines that others share.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 32768,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What drives whole processes runs last, after everything that says more precisely what is wrong; of it the longest
    first, so that one of two workers is not left alone with it."""
    items.sort(key=lambda item: (item.path.stem.endswith("end_to_end"), "vscode" not in item.path.stem))


def pytest_sessionfinish() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


def write_tiny(folder: Path, **changes: object) -> Path:
    """A random model in Hugging Face's layout with the embedded base's tokenizer."""
    fields = TINY | changes
    config = ModelConfig.from_dict(fields)
    generator = torch.Generator().manual_seed(7)
    tensors = {
        name: torch.ones(shape) if name.endswith("norm.weight") else torch.randn(shape, generator=generator) * 0.2
        for name, shape in config.shapes().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(fields))
    shutil.copy(EMBEDDED / "tokenizer.json", folder / "tokenizer.json")
    return folder


def needs(prefill: str) -> None:
    """Without the instructions that a kernel is made for it is wrong, and nobody is given it."""
    if not (fills(64) if prefill == "native" else usable(prefill)):
        pytest.skip(f"this CPU does not compute {prefill} rightly")


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Training in a given type on one thread: two wait for each other on a busy machine, a probe may say anything."""
    monkeypatch.setattr("habitab_adapters.pretrain.machine.faster_kind", lambda: "float32")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def tiny_engine(tiny_base: Path) -> Engine:
    # A given kernel: what the probe takes on a busy machine must not decide what a test sees.
    return Engine.load(EngineSettings(base=str(tiny_base), threads=1, kernel="int8"))


@pytest.fixture(scope="session")
def base_engine() -> Engine:
    """The real base; one for the whole run, since it takes a second to load."""
    return Engine.load(EngineSettings())
