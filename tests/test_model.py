"""Our network computes what transformers computes, in any chunking and through every kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import TINY, needs, write_tiny
from habitab_engine.attention import BLOCK
from habitab_engine.checkpoint import load_checkpoint
from habitab_engine.errors import Cancelled
from habitab_engine.export import export_hf
from habitab_engine.kernels import BF16_TOLERANCE, TOLERANCE, Kernels
from habitab_engine.model import Model, cut

PLAIN = Kernels("float32", "float32")
TOKENS = [11, 250, 3, 4096, 77, 77, 500, 12, 9999, 31, 8, 600]
FAMILIES = {
    "llama": {},
    "llama-untied": {"tie_word_embeddings": False, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "qwen2": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
    },
}


def reference(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([TOKENS])).logits[0]


def ours(model: Model, tokens: list[int] = TOKENS, chunk: int = 5) -> torch.Tensor:
    cache, hidden = model.new_cache(64), []
    for begin, end in cut(len(tokens), chunk):
        hidden.append(model.prefill(tokens[begin:end], cache, begin))
    return model.logits(torch.cat(hidden))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers(family: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / family, **FAMILIES[family])
    torch.testing.assert_close(ours(Model(load_checkpoint(folder), PLAIN)), reference(folder), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernels", [PLAIN, Kernels("int8", "bag"), Kernels("bf16", "native")])
def test_decoding_one_by_one_equals_prefilling_at_once(kernels: Kernels, tiny_base: Path) -> None:
    needs(kernels.prefill)
    model = Model(load_checkpoint(tiny_base), kernels)
    at_once, cache = ours(model, chunk=len(TOKENS)), model.new_cache(64)
    one_by_one = torch.stack([model.decode(token, cache, i) for i, token in enumerate(TOKENS)])
    precise = 0.02 if kernels.prefill != "bf16" else 0.2  # bfloat16 activations on a random network
    assert (one_by_one - at_once).abs().max() <= precise * at_once.abs().max()


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_the_chunk_size_does_not_matter(chunk: int, tiny_base: Path) -> None:
    needs("int8")
    model = Model(load_checkpoint(tiny_base), Kernels("int8", "bag"))
    torch.testing.assert_close(ours(model, chunk=chunk), ours(model, chunk=12), rtol=1e-3, atol=1e-3)


def test_cancelling_between_layers_raises(tiny_base: Path) -> None:
    model, calls = Model(load_checkpoint(tiny_base), PLAIN), []

    def second_time() -> bool:
        calls.append(1)
        return len(calls) == 2

    with pytest.raises(Cancelled):
        model.prefill(TOKENS, model.new_cache(64), 0, second_time)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    folder = tmp_path_factory.mktemp("exported")
    export_hf(folder)
    return reference(folder)


@pytest.mark.parametrize(
    ("kernels", "tolerance"),
    [
        (PLAIN, 1e-3),
        (Kernels("int8", "bag"), TOLERANCE),
        (Kernels("bf16", "native"), BF16_TOLERANCE),
        (Kernels("native", "native"), BF16_TOLERANCE),
    ],
)
def test_the_exported_base_has_our_logits(kernels: Kernels, tolerance: float, exported: torch.Tensor) -> None:
    needs(kernels.prefill)
    assert (ours(Model(load_checkpoint(None), kernels)) - exported).abs().max() <= tolerance


def test_the_tiny_model_has_the_shape_it_claims(tiny_base: Path) -> None:
    model = Model(load_checkpoint(tiny_base), PLAIN)
    assert model.new_cache(130).shape == (TINY["num_hidden_layers"], 2, 4, 16 * BLOCK)
    assert cut(5, 2) == [(0, 2), (2, 4), (4, 5)] and cut(0, 2) == []
