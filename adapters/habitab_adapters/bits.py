"""How many bits a given text costs behind a cursor, under the very prompt that the engine serves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from habitab_engine.types import CompletionRequest

if TYPE_CHECKING:
    from habitab_engine.engine import Engine


def bits_of(engine: Engine, request: CompletionRequest, text: str) -> tuple[float, int]:
    """The bits of `text` token by token, and the bytes they are of (fewer than all where the cache has no room).

    The tokens that the prompt left out for healing are given: where one of them also holds the text's beginning, its
    probability is that among the tokens which agree with what stands before the cursor, as when it is generated. The
    memory is mixed in where the request wants it.
    """
    import torch

    from habitab_engine.decode import decode_one_token, prefill
    from habitab_engine.engine import ROOM

    slot, tokenizer = engine.slot(request.document), engine.tokenizer
    prompt = engine.prompt(request, slot)
    recall = engine.recall(request, prompt, matches=True)() if request.memory else None
    logits, _ = prefill(engine.model, slot, prompt.tokens, bool)
    wanted = prompt.healed.encode()
    nats, size = 0.0, -len(wanted)
    for token in tokenizer.encode(prompt.healed + text)[:ROOM]:
        allowed = tokenizer.agreeing(wanted) if wanted else None
        total = logits.logsumexp(0)
        if allowed is not None:
            logits = torch.full_like(logits, -math.inf).index_copy_(0, torch.tensor(allowed), logits[allowed])
        agreed = float((logits.logsumexp(0) - total).exp())
        logprobs = logits.log_softmax(0)
        if recall is not None:
            logprobs = recall.mixed(logprobs, slot.tokens, allowed, agreed)
            recall.wrote(token)
        nats -= float(logprobs[token])
        wanted, size = wanted[len(tokenizer.pieces[token]) :], size + len(tokenizer.pieces[token])
        logits = decode_one_token(engine.model, slot, token)
    return nats / math.log(2), size
