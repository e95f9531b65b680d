"""Random adapters, for whatever keeps, carries or loads one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from habitab_engine.checkpoint import Checkpoint
from habitab_engine.lora import Floats, Lora

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def random_lora(
    base: Checkpoint, rank: int = 4, alpha: float = 8.0, seed: int = 0, size: float = 0.1, modules: Sequence[str] = ALL
) -> Lora:
    """An adapter that changes what the base writes, its numbers in float16."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Floats:
        return (torch.randn(shape, generator=generator) * size).half().numpy()

    factors = {
        name: (drawn(rank, shape[1]), drawn(shape[0], rank))
        for name, shape in base.config.shapes().items()
        if name.endswith(".weight") and name.split(".")[-2] in modules
    }
    return Lora(rank, alpha, base.base_id, factors)


def facts_of(base: Checkpoint, **more: Any) -> dict[str, Any]:
    return {"base": {"id": base.base_id, "sha256": base.sha256}, "method": "ce", **more}
