"""From tokens to tokens: `prefill`, `decode_one_token`, `generate`. Free functions; V is the vocabulary's size.

Everything here checks a stop flag: per chunk and layer while prefilling, per token while decoding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from habitab_engine.copying import Copy, own_probability, weighed
from habitab_engine.errors import Cancelled
from habitab_engine.few import FEW
from habitab_engine.kv_cache import Slot
from habitab_engine.model import Model, cut
from habitab_engine.recall import Recall
from habitab_engine.stopping import Stop
from habitab_engine.tokenizer import Tokenizer

CHUNK = 256  # a quarter faster than 128; the stop flag is looked at between layers, too
BEATEN = "a copy is likelier"
Flag = Callable[[], bool]
Draft = Callable[[list[int]], list[int]]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Greedy at temperature 0; else nucleus sampling (arXiv 1904.09751) with its own random numbers."""

    temperature: float = 0.0
    top_p: float = 0.95
    generator: torch.Generator | None = None


@dataclass(slots=True)
class Generated:
    """The text after the cursor, its tokens (healed ones first) with their log-probabilities, and why it ended.

    The first `line` tokens make its first line; 0 before that has ended. `copy` is the memory's line, if it has one;
    `copied` is above 0 where this is it: the probability that it is right.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: str = ""
    line: int = 0
    copy: Copy | None = None
    copied: float = 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """What to generate: after the `healed` bytes, `must_start`, then what the model likes, until a stop rule.

    `stop_at` judges what was generated so far; `stops` are token ids; the additive masks `[V]` are -∞ where a token
    must not come (`first_mask` until there is text); a token below `least_logprob` at the start of a word ends the
    text; `deadline` is a time of `time.perf_counter`; `recall` makes what mixes names in and drafts; `copy` is what
    the memory would write as a whole. Where it is written, `copying` is the probability that it is right; else the text
    ends as soon as its first line is less likely.
    """

    healed: bytes
    must_start: bytes
    stop_at: Callable[[Generated], Stop | None]
    stops: frozenset[int]
    mask: Tensor
    first_mask: Tensor
    most_tokens: int
    deadline: float
    least_logprob: float = -math.inf
    sampling: Sampling = Sampling()
    recall: Callable[[], Recall] | None = None
    copy: Copy | None = None
    copying: float = 0.0


def prefill(model: Model, slot: Slot, tokens: Sequence[int], cancelled: Flag) -> tuple[Tensor, int]:
    """Bring `slot` to hold exactly `tokens`; return the logits `[V]` after them and how many were reused.

    Raises Cancelled; the chunks done by then are kept.
    """
    reused = slot.reuse(tokens)
    slot.known = {position: logits for position, logits in slot.known.items() if position >= reused}
    if reused == len(tokens) and reused in slot.known:
        return slot.known[reused], reused
    reused = min(reused, len(tokens) - 1)  # the last token is run again for its logits
    logits = extend(model, slot, tokens, reused, cancelled)
    slot.learn(len(tokens), logits)
    return logits, reused


def extend(model: Model, slot: Slot, tokens: Sequence[int], begin: int, cancelled: Flag) -> Tensor:
    """Run `tokens[begin:]` in chunks behind the cached `tokens[:begin]`; return the logits `[V]` after the last."""
    slot.overwrite(begin)
    if len(tokens) - begin == 1:
        return decode_one_token(model, slot, tokens[-1])
    for start, end in cut(len(tokens) - begin, CHUNK):
        if cancelled():
            raise Cancelled("A newer keystroke made the request pointless.")
        chunk = list(tokens[begin + start : begin + end])
        hidden = model.prefill(chunk, slot.cache, begin + start, cancelled)
        slot.tokens += chunk
    return model.logits(hidden[-1:])[0]


def decode_one_token(model: Model, slot: Slot, token: int) -> Tensor:
    """Append one token to the cache; return the logits `[V]` of the next."""
    position = len(slot.tokens)
    slot.overwrite(position)
    logits = model.decode(token, slot.cache, position)
    slot.tokens.append(token)
    slot.learn(position + 1, logits)
    return logits


def after(model: Model, slot: Slot, token: int, draft: Draft | None) -> Tensor:
    """Append `token`; return the logits `[V]` of the next.

    If the cache holds the token already, nothing is computed. What `draft` foresees, given the tokens so far, is
    computed in the same pass; the logits are those that decoding one by one gives, within the tolerance of the
    kernels.
    """
    known = slot.follow(token)
    if known is not None:
        return known
    drafted = draft([*slot.tokens, token])[: FEW - 1] if draft else []
    if not drafted:
        return decode_one_token(model, slot, token)
    position = len(slot.tokens)
    slot.overwrite(position)
    logits = model.verify([token, *drafted], slot.cache, position)
    slot.tokens.append(token)
    slot.rest = drafted
    for i, row in enumerate(logits.unbind(0), position + 1):
        slot.learn(i, row)
    return logits[0]


def complete(model: Model, slot: Slot, tokenizer: Tokenizer, logits: Tensor, task: Task, cancelled: Flag) -> Generated:
    """The greedy text, or the memory's, whichever has the first line that is rather right. Raises Cancelled."""
    prompt = list(slot.tokens)
    greedy = generate(model, slot, tokenizer, logits, task, cancelled)
    own, other = weighed(own_probability(greedy.logprobs[: greedy.line or None]), greedy.text, task.copy)
    if other <= own and greedy.stop != BEATEN:
        return greedy
    slot.reuse(prompt)
    return generate(model, slot, tokenizer, logits, replace(task, copying=other), cancelled)


@torch.inference_mode()
def generate(model: Model, slot: Slot, tokenizer: Tokenizer, logits: Tensor, task: Task, cancelled: Flag) -> Generated:
    """Decode until a stop rule holds. `logits` `[V]` are those after the prompt. Raises Cancelled."""
    with model.decoding():
        return _generate(model, slot, tokenizer, logits, task, cancelled)


def _generate(model: Model, slot: Slot, tokenizer: Tokenizer, logits: Tensor, task: Task, cancelled: Flag) -> Generated:
    out = Generated(copy=task.copy, copied=task.copying)
    recall, trust = task.recall() if task.recall else None, task.copy.trust if task.copy else 0.0
    draft = recall.draft if recall else None
    begun = task.copy.ids if task.copy and task.copying else ()
    wanted, written = task.healed + task.must_start, b""
    while not out.stop:
        if cancelled():
            raise Cancelled("A newer keystroke made the request pointless.")
        allowed = tokenizer.agreeing(wanted[len(written) :]) if len(written) < len(wanted) else None
        scores = _allowed(logits, allowed, task.mask if out.text else task.first_mask)
        given = begun[len(out.ids)] if len(out.ids) < len(begun) else None
        token, logprob = _pick(scores, logits.logsumexp(0), slot.tokens, allowed, recall, task.sampling, given)
        if given is not None:
            logprob, trust = _trusted(logprob, trust)
        out.stop = _before(token, logprob, tokenizer, task, out, len(written) < len(wanted))
        if out.stop:
            break
        written += tokenizer.pieces[token]
        out.ids.append(token)
        out.logprobs.append(logprob)
        if recall:
            recall.wrote(token)
        out.text = written[len(task.healed) :].decode("utf-8", errors="ignore")
        out.line = out.line or ("\n" in out.text) * len(out.ids)
        _after(task, out)
        if not out.stop:
            logits = after(model, slot, token, draft)
    return out


def _before(token: int, logprob: float, tokenizer: Tokenizer, task: Task, out: Generated, bound: bool) -> str:
    """Why the chosen token is not to be written, if so."""
    if token in task.stops:
        return "end token"
    if not bound and out.text and logprob < task.least_logprob and _new_word(out.text, tokenizer.pieces[token]):
        return "low confidence"
    return ""


def _new_word(text: str, piece: bytes) -> bool:
    """True where the token does not go on with a word that the text has begun."""
    return not (text[-1:].isalnum() and piece[:1].isalnum())


def _after(task: Task, out: Generated) -> None:
    """Apply the rules that look at the text, the length and the clock."""
    if task.copy and not task.copying and not out.line and _is_beaten(out, task.copy):
        out.stop = BEATEN
    elif out.text and (found := task.stop_at(out)):
        out.text, out.stop = out.text[: found.keep], found.reason
    elif len(out.ids) >= task.most_tokens:
        out.text, out.stop = _whole_lines(out.text), "length"
    elif time.perf_counter() > task.deadline:
        out.text, out.stop = _whole_lines(out.text), "time budget"


def _is_beaten(out: Generated, copy: Copy) -> bool:
    """Whether the line has left the copy's, and would be less likely even if the rest of it were certain."""
    if copy.text.startswith(out.text):
        return False
    own, other = weighed(_at_best(out.logprobs, len(copy.ids)), out.text, copy)
    return own < other


def _at_best(logprobs: list[float], tokens: int) -> float:
    """That the line is right which has begun like this, if the rest of its `tokens` were certain."""
    return own_probability(logprobs + [0.0] * (tokens - len(logprobs)))


def _whole_lines(text: str) -> str:
    return text[: text.rfind("\n") + 1].removesuffix("\n")


def _allowed(logits: Tensor, allowed: list[int] | None, mask: Tensor) -> Tensor:
    """The logits with -∞ for all but the `allowed` tokens, or for those that `mask` forbids."""
    if allowed is None:
        return logits + mask
    ids = torch.tensor(allowed)
    return torch.full_like(logits, -math.inf).index_copy_(0, ids, logits[ids])


def _pick(
    scores: Tensor,
    total: Tensor,
    context: list[int],
    allowed: list[int] | None,
    recall: Recall | None,
    sampling: Sampling,
    given: int | None,
) -> tuple[int, float]:
    """A token id of those that may come, or the `given` one, and its log-probability: among the `allowed`, which agree
    with what was typed, or among all, whose logits' log-sum-exp is `total`."""
    among = scores.logsumexp(0)
    agreed = float(among - total)
    logprobs = scores - among
    if recall:
        logprobs = recall.mixed(logprobs, context, allowed, math.exp(agreed))
    token = _choose(logprobs, sampling) if given is None else given
    return token, float(logprobs[token]) + (agreed if allowed is None else 0.0)


def _trusted(logprob: float, trust: float) -> tuple[float, float]:
    """A copied token's log-probability, if it is certain with the probability `trust` that this is a copy, and how
    certain that is behind it (Bayes' rule)."""
    mixed = (1 - trust) * math.exp(logprob) + trust
    return math.log(mixed), trust / mixed


def _choose(logits: Tensor, sampling: Sampling) -> int:
    if sampling.temperature == 0.0:
        return int(logits.numpy().argmax())  # ten times as fast as torch's
    ranked, order = (logits / sampling.temperature).softmax(0).sort(descending=True)
    nucleus = ranked * (ranked.cumsum(0) - ranked < sampling.top_p)
    return int(order[torch.multinomial(nucleus, 1, generator=sampling.generator)])
