"""The network that is trained computes what the engine serves, packed or padded, whole or pruned."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from conftest import write_tiny
from habitab_adapters.pretrain import network as module
from habitab_adapters.pretrain import operations
from habitab_adapters.pretrain.network import Network, floats, pruned
from habitab_engine.checkpoint import load_checkpoint, quantise_rows, whole
from habitab_engine.errors import BaseModelError, InputError
from habitab_engine.kernels import Kernels
from habitab_engine.model import Model
from habitab_engine.native import multiplies

LONG = [11, 250, 3, 4096, 77, 77, 500, 12, 9999, 31, 8, 600]
SHORT = [5, 17, 200, 6]


@pytest.fixture(autouse=True)
def _without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than all of these tests."""
    monkeypatch.setattr(operations, "_compiles", lambda: False)


def network(folder: Path, **options: int) -> Network:
    checkpoint = load_checkpoint(folder)
    return Network(checkpoint.config, floats(checkpoint), **options)


def logits(net: Network, tokens: list[int], lengths: list[int], seams: module.Seams) -> torch.Tensor:
    positions = torch.cat([torch.arange(n) for n in lengths])
    with torch.no_grad():
        return net(torch.tensor(tokens), positions, seams, torch.float32) @ net.head(torch.float32).T


@pytest.fixture(scope="module")
def served(tiny_base: Path) -> torch.Tensor:
    model = Model(load_checkpoint(tiny_base), Kernels("float32", "float32"))
    return model.verify(LONG, model.new_cache(64), 0)


def test_logits_equal_those_of_the_engine(tiny_base: Path, served: torch.Tensor) -> None:
    ours = logits(network(tiny_base), LONG, [len(LONG)], ((1, len(LONG)),))
    torch.testing.assert_close(ours, served, rtol=1e-4, atol=1e-4)


def test_sequences_do_not_see_each_other(tiny_base: Path, served: torch.Tensor) -> None:
    together = SHORT + SHORT + LONG
    ours = logits(network(tiny_base), together, [4, 4, len(LONG)], ((2, 4), (1, len(LONG))))
    torch.testing.assert_close(ours[8:], served, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours[:4], ours[4:8])


def one_by_one(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, *_: object, **options: object) -> Tensor:
    """What CUDA's attention over sequences of any lengths computes, for a CPU."""
    assert options in ({"window_size": (-1, 0)}, {"is_causal": True})
    spans = [slice(*span) for span in pairwise(ends.tolist()) if span[0] < span[1]]
    heads = ([t[span].transpose(0, 1) for t in (q, k, v)] for span in spans)
    parts = [functional.scaled_dot_product_attention(*qkv, is_causal=True) for qkv in heads]
    return torch.cat([part.transpose(0, 1) for part in parts])


def test_sequences_by_their_ends_are_the_same_as_in_groups(
    tiny_base: Path, served: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "varlen_attn", one_by_one)
    ends = torch.tensor([0, 4, 16, 21, 21], dtype=torch.int32)
    ours = logits(network(tiny_base), SHORT + LONG + [0] * 5, [4, 12, 5], ends)
    torch.testing.assert_close(ours[4:16], served, rtol=1e-4, atol=1e-4)


def test_the_gradients_are_those_of_the_plain_formulas(tiny_base: Path) -> None:
    """Against transformers, which leaves everything to autograd."""
    from transformers import AutoModelForCausalLM

    tokens, net = torch.tensor(LONG), network(tiny_base)
    net(tokens, torch.arange(len(LONG)), ((1, len(LONG)),), torch.float32).square().sum().backward()
    plain = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    plain.model(tokens[None], use_cache=False).last_hidden_state.square().sum().backward()
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    attention = "model.layers.0.self_attn."
    qkv = torch.cat([gradients[f"{attention}{part}_proj.weight"] for part in "qkv"])
    block = next(net.layers())
    torch.testing.assert_close(block.qkv.weight.grad, qkv, rtol=1e-3, atol=1e-3)
    wanted = gradients["model.layers.0.input_layernorm.weight"]
    torch.testing.assert_close(block.norm.grad, wanted, rtol=1e-3, atol=1e-3)
    wanted = gradients["model.layers.1.mlp.up_proj.weight"]
    torch.testing.assert_close(list(net.layers())[1].gate_up.weight.grad[96:], wanted, rtol=1e-3, atol=1e-3)


def test_the_tensors_go_in_and_come_out_unchanged(tiny_base: Path) -> None:
    checkpoint = load_checkpoint(tiny_base)
    out = network(tiny_base).tensors()
    assert out.keys() == checkpoint.config.shapes().keys()
    assert all(torch.equal(out[name], tensor) for name, tensor in floats(checkpoint).items())


def test_bfloat16_is_float32_but_for_rounding(tiny_base: Path, served: torch.Tensor) -> None:
    net, places = network(tiny_base), torch.arange(len(LONG))
    with torch.no_grad():
        hidden = net(torch.tensor(LONG), places, ((1, len(LONG)),), torch.bfloat16)
    ours = (hidden @ net.head(torch.bfloat16).T).float()
    assert (ours - served).abs().max() < 0.1 * served.abs().max()


@pytest.mark.skipif(not multiplies(), reason="no compiled products for this CPU")
def test_its_products_may_be_those_of_its_rounded_matrices(tiny_base: Path) -> None:
    net, places, seams = network(tiny_base), torch.arange(len(LONG)), ((1, len(LONG)),)
    net.round(torch.round)
    rows = {name: whole(quantise_rows(t)) for name, t in net.tensors().items() if t.dim() == 2}
    embed = "model.embed_tokens.weight"
    exact = Network(net.config, net.tensors() | rows | {embed: net.embed.detach()})
    with torch.no_grad():
        wanted = exact(torch.tensor(LONG), places, seams, torch.float32) @ rows[embed].T
        hidden = net(torch.tensor(LONG), places, seams, torch.float32)
    assert net.logits is not None
    assert (net.logits(hidden) - wanted).abs().max() < 0.001 * wanted.abs().max()


def test_fresh_low_rank_factors_change_nothing(tiny_base: Path, served: torch.Tensor) -> None:
    net = network(tiny_base, rank=4, seed=1)
    ours = logits(net, LONG, [len(LONG)], ((1, len(LONG)),))
    torch.testing.assert_close(ours, served, rtol=1e-4, atol=1e-4)
    assert {name.rsplit(".", 1)[1] for name, p in net.named_parameters() if p.requires_grad} == {"up", "down"}


def test_merged_low_rank_factors_compute_the_same(tiny_base: Path) -> None:
    net = network(tiny_base, rank=4, seed=1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith(".up"):
                p.normal_(std=0.1)
    merged = Network(net.config, net.tensors())
    groups = ((1, len(LONG)),)
    torch.testing.assert_close(
        logits(merged, LONG, [len(LONG)], groups), logits(net, LONG, [len(LONG)], groups), rtol=1e-4, atol=1e-4
    )


def test_a_pruned_model_is_the_model_without_these_layers(tiny_base: Path) -> None:
    checkpoint = load_checkpoint(tiny_base)
    tensors = floats(checkpoint)
    config, kept = pruned(checkpoint.config, tensors, [1])
    assert config.layers == 1 and kept.keys() == config.shapes().keys()
    name = "mlp.down_proj.weight"
    assert torch.equal(kept[f"model.layers.0.{name}"], tensors[f"model.layers.1.{name}"])


@pytest.mark.parametrize("layers", [(), (1, 0), (0, 0), (-1,), (2,)])
def test_layers_that_cannot_be_kept_are_refused(layers: tuple[int, ...], tiny_base: Path) -> None:
    checkpoint = load_checkpoint(tiny_base)
    with pytest.raises(InputError, match="layers to keep"):
        pruned(checkpoint.config, floats(checkpoint), layers)


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="llama family"):
        network(write_tiny(tmp_path / "qwen", model_type="qwen2"))
