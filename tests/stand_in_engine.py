"""What vLLM's engine gives for a prompt, computed by a local model: tokens, texts and log-probabilities.

The rules are vLLM's own (v1 engine, `--logprobs-mode raw_logprobs`): log-probabilities are those before temperature; an
entry begins with the token that stands there, whose rank counts every token at least as likely, and goes on with the
likeliest; a token that ends inside of a character says nothing, and the one that completes it says all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from attribution.models.local import LocalModel

_HALF = "\N{REPLACEMENT CHARACTER}"
_LOOKED_BACK = 4  # tokens, for the beginning of a character


@dataclass(frozen=True)
class Entry:
    """A token that stands, or could stand, at a place."""

    logprob: float
    rank: int
    text: str


Entries = dict[int, Entry]
"""What stands at a place, and then what else could, by id."""


@dataclass(frozen=True)
class Options:
    """How to go on from a prompt. `top` and `prompt_top` count alternatives; None asks for no log-probabilities."""

    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    includes_stop: bool = False
    top: int | None = None
    prompt_top: int | None = None


@dataclass(frozen=True)
class Written:
    """What was written after a prompt, and what ended it."""

    ids: tuple[int, ...]
    text: str
    finish_reason: str
    stop_reason: str | int | None = None
    entries: list[Entries] = field(default_factory=list[Entries])
    prompt_entries: list[Entries | None] | None = None


class Engine:
    """Goes on from prompts as vLLM does."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model

    def write(self, prompt: Sequence[int], options: Options) -> Written:
        """What the model writes after the prompt, with the log-probabilities that were asked for."""
        ids = self._continued(prompt, options)
        ids, text, finish_reason, stop_reason = self._cut(prompt, ids, options)
        written = Written(tuple(ids), text, finish_reason, stop_reason)
        if options.top is None and options.prompt_top is None:
            return written
        whole = [*prompt, *ids]
        # An entry stands beside the token that comes after what was read.
        rows = self._logprobs(whole[:-1])
        first = len(prompt) - 1
        if options.top is not None:
            written.entries.extend(
                self._entries(whole, at + 1, rows[at], options.top) for at in range(first, len(whole) - 1)
            )
        if options.prompt_top is None:
            return written
        read = [self._entries(whole, at + 1, rows[at], options.prompt_top) for at in range(first)]
        return Written(written.ids, text, finish_reason, stop_reason, written.entries, [None, *read])

    def spell(self, token: int, before: Sequence[int]) -> str:
        """What a token says after those before it."""
        decode = self.model.codec.decode
        alone = decode([token])
        if not alone.endswith(_HALF):
            return alone
        for count in range(1, min(len(before), _LOOKED_BACK) + 1):
            context = list(before[-count:])
            whole = decode([*context, token])
            if whole.endswith(_HALF):
                continue
            while context and decode(context[-1:]).endswith(_HALF):
                context.pop()
            return whole.removeprefix(decode(context))
        return ""

    def _continued(self, prompt: Sequence[int], options: Options) -> list[int]:
        if options.temperature == 0:
            return list(self.model.generate(prompt, options.max_tokens, stop=not options.ignore_eos))
        generator = torch.Generator()
        if options.seed is None:
            generator.seed()
        else:
            generator.manual_seed(options.seed)
        ids: list[int] = []
        for _ in range(options.max_tokens):
            scaled = self._logprobs([*prompt, *ids])[-1] / options.temperature
            ids.append(int(torch.multinomial(scaled.softmax(0), 1, generator=generator)))
            if ids[-1] in self.model.stop_ids and not options.ignore_eos:
                break
        return ids

    def _cut(
        self, prompt: Sequence[int], ids: list[int], options: Options
    ) -> tuple[list[int], str, str, str | int | None]:
        """The ids up to where one of them, or what they say, ends the text; the text; and why it ends."""
        for count in range(1, len(ids) + 1) if options.stop or options.stop_ids else ():
            text = self._text(prompt, ids[:count])
            found = [(text.find(each), each) for each in options.stop if each in text]
            if found:
                at, stop = min(found)
                return ids[:count], text[: at + len(stop) * options.includes_stop], "stop", stop
            if ids[count - 1] in options.stop_ids:
                return ids[:count], text, "stop", ids[count - 1]
        ended = bool(ids) and ids[-1] in self.model.stop_ids and not options.ignore_eos
        return ids, self._text(prompt, ids), "stop" if ended else "length", None

    def _text(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """What the ids say, without special tokens; half a character at the end is held back."""
        special = set(self.model.tokenizer.all_special_ids)
        said = [token for token in ids if token not in special]
        return "".join(self.model.codec.output_texts(prompt, said)).rstrip(_HALF)

    def _logprobs(self, ids: Sequence[int]) -> torch.Tensor:
        """`[token, vocabulary]`: log-probabilities of what comes after each token."""
        with torch.no_grad(), self.model.borrowed():
            return self.model.logits(torch.tensor([list(ids)]))[0].log_softmax(-1)

    def _entries(self, ids: Sequence[int], at: int, row: torch.Tensor, top: int) -> Entries:
        """The token at a place and as many of the likeliest ones there; all of them for -1."""
        token, before = ids[at], ids[:at]
        entries = {token: Entry(float(row[token]), int((row >= row[token]).sum()), self.spell(token, before))}
        best = row.topk(len(row) if top == -1 else top)
        for rank, (value, other) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True), 1):
            entries[other] = Entry(value, rank, self.spell(other, before))
        return entries
