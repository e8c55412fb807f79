"""Counterfactuals: the smallest change of a prompt that makes a model answer otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from tqdm import tqdm

from attribution.edits import Stretch, Where, Writing, find, read_writing
from attribution.errors import InputError
from attribution.experiment import WHOLE, asked_record, said
from attribution.explainer import Source, explain
from attribution.frames import frame
from attribution.method import Method
from attribution.models import load
from attribution.outputs import Outputs
from attribution.prompts.prompt import check_count
from attribution.prompts.units import Units, check_units
from attribution.question import Asked, Question, ask
from attribution.result import Attribution

if TYPE_CHECKING:
    from attribution.views.counterfactual import CounterfactualsView

_KEPT = 10  # of the changes that lead to another answer
_CONSIDERED = 200  # of the tokens that a model finds likeliest somewhere


@dataclass(frozen=True)
class Change:
    """A unit of the prompt, by its index and text, and the text that stands in its place."""

    unit: int
    text: str
    alternative: str


@dataclass(frozen=True)
class Counterfactual:
    """Changes with which the model answers otherwise.

    `prompt` is what was asked then, `output` what the model wrote. `change` is how much less likely the first output is
    there, in nats.
    """

    changes: tuple[Change, ...]
    prompt: Any
    output: str
    change: float

    def __str__(self) -> str:
        return ", ".join(f"{change.text!r} → {change.alternative!r}" for change in self.changes)


@dataclass(frozen=True)
class Counterfactuals:
    """The smallest changes that were found, those of the strongest units first; none where nothing was found.

    `output` is what the model writes after the prompt as it is. `tried` changed prompts were read. `is_complete` says
    whether everything with so many changes, or up to the most that were allowed where nothing was found, was tried;
    else there may be others, and where `found` has several changes, smaller ones.
    """

    prompt: Any
    output: str
    found: tuple[Counterfactual, ...]
    tried: int
    is_complete: bool
    attribution: Attribution
    """The result by which units were ranked."""

    def to_dict(self) -> dict[str, Any]:
        """Everything in it as plain lists, numbers and texts, ready for JSON."""
        return {
            "prompt": self.prompt,
            "output": self.output,
            "found": [asdict(each) for each in self.found],
            "tried": self.tried,
            "is_complete": self.is_complete,
            "attribution": self.attribution.to_dict(),
        }

    def to_frame(self) -> Any:
        """A table with one row per change that was found, of pandas or polars; `MissingExtraError` without either."""
        columns = {"changes": list(map(str, self.found))}
        for name in ("output", "change"):
            columns[name] = [getattr(each, name) for each in self.found]
        return frame(columns)

    def text_view(self) -> CounterfactualsView:
        """What a terminal shows. `rich` prints it, `str` makes plain text of it."""
        from attribution.views.counterfactual import CounterfactualsView

        return CounterfactualsView(self.to_dict())

    def __str__(self) -> str:
        return str(self.text_view())

    def __rich__(self) -> CounterfactualsView:
        return self.text_view()


def counterfactuals(
    model: Source,
    prompt: Asked,
    alternatives: Mapping[Where, Sequence[str]] | Sequence[str] | None = None,
    *,
    outputs: Outputs = None,
    answer: str | None = None,
    units: Units = "word",
    method: str | Method = "leave_one_out",
    max_changes: int = 2,
    beam: int = 5,
    proposals: int = 5,
    max_tries: int = 500,
    max_new_tokens: int = 20,
) -> Counterfactuals:
    r"""The smallest swap of parts of the prompt that changes the answer: what would have had to be different.

    - `alternatives`: what may stand in the place of which part, `{"apples": ["pears", "oranges"]}`, with parts as in
      `Edit`; or texts that may stand in the place of any unit; None for the `proposals` texts that the model itself
      finds likeliest there, given what is before: words for a word, numbers for a number, marks for a mark.
    - `outputs`: the part of the answer that units are ranked for, as `Attribution.total` takes it, for instance `"3"`.
    - `answer`: what the other answer has to say; None for any other.
    - `units`, `method`: what is exchanged, and what ranks it, as in `explain`.
    - `max_changes`: of how many units at most at once; where no single one suffices, the `beam` changes that came
      closest are gone on with.
    - `max_tries`: how many changed prompts are read at most, one forward pass each.

    Raises `InputError` where an argument is not as above, and what `explain` raises.

    >>> import attribution as at
    >>> question = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
    >>> found = at.counterfactuals("demo", question, {"3": ["4"], "5": ["4"], "Tom": ["Ann"]}).found
    >>> print(found[0], "makes it say", found[0].output.strip())
    '3' → '4' makes it say The answer is 4.<eos>
    """
    counts = {"max_changes": max_changes, "beam": beam, "proposals": proposals, "max_tries": max_tries}
    limits = {name: check_count(name, count) for name, count in counts.items()}
    tokens_allowed = check_count("max_new_tokens", max_new_tokens)
    local = load(model)
    question = ask(local, prompt, check_units(units), "logprob", None, tokens_allowed)
    writing = read_writing(prompt)
    given = None if alternatives is None else _given(alternatives, writing, question)
    result = explain(local, prompt, output=question.output, units=units, method=method)
    strength = np.abs(result.total(outputs))
    ranked = sorted(_stretches(question, writing), key=lambda each: -strength[each[0]])
    choices = [
        Choice(Change(unit, _own(stretch, writing), text), stretch)
        for unit, stretch in ranked
        for text in (given.get(unit, ()) if given is not None else _proposals(question, unit, limits["proposals"]))
        if text != _own(stretch, writing)
    ]
    if not choices:
        raise InputError("Expected alternatives that differ from what stands in the prompt, got none. Give others.")
    search = _Search(question, writing, answer, tokens_allowed, limits["max_tries"])
    found = search.run(choices, limits["max_changes"], limits["beam"])
    return Counterfactuals(
        prompt=asked_record(prompt),
        output="".join(question.output_texts),
        found=tuple(found),
        tried=search.tried,
        is_complete=search.is_complete,
        attribution=result,
    )


@dataclass(frozen=True)
class Choice:
    """A change, and the characters of the person's text that it is made in."""

    change: Change
    stretch: Stretch


class _Search:
    """Reads changed prompts, the most promising first, until the answer is another."""

    def __init__(
        self, question: Question, writing: Writing, answer: str | None, max_new_tokens: int, tries: int
    ) -> None:
        self._question, self._writing, self._answer = question, writing, answer
        self._max_new_tokens, self._tries = max_new_tokens, tries
        self._likely = _read(question)[0]
        self.tried = 0
        self.is_complete = True

    def run(self, choices: Sequence[Choice], max_changes: int, beam: int) -> list[Counterfactual]:
        """The smallest changes that lead to another answer, none where there are none among those that were tried."""
        grown: list[tuple[Choice, ...]] = [()]
        with tqdm(total=self._tries, desc="counterfactuals", disable=None, delay=1, leave=False) as bar:
            for size in range(1, max_changes + 1):
                states = list(_grown(grown, choices))
                self.is_complete &= size == 1 or len(grown) == len(choices)
                weighed: list[tuple[float, tuple[Choice, ...]]] = []
                found: list[Counterfactual] = []
                for state in states:
                    if self.tried >= self._tries:
                        self.is_complete = False
                        break
                    likely, other = self._try(state)
                    bar.update()
                    weighed.append((likely, state))
                    if other is not None:
                        found.append(other)
                    if len(found) == _KEPT:
                        self.is_complete &= state == states[-1]
                        break
                if found:
                    return found
                grown = [state for _, state in sorted(weighed, key=lambda each: each[0])[:beam]]
                if not grown:
                    break
        return []

    def _try(self, state: Sequence[Choice]) -> tuple[float, Counterfactual | None]:
        """How likely the first output is after these changes, and what the model says where that is something else."""
        first = self._question
        asked = self._writing.edited({choice.stretch: choice.change.alternative for choice in state})
        changed = ask(first.model, asked, WHOLE, "logprob", first.output)
        self.tried += 1
        likely, is_greedy = _read(changed)
        if is_greedy:
            return likely, None
        written = first.model.generate(changed.prompt.encoding.ids, self._max_new_tokens)
        says = said(changed, written)
        if says == said(first, first.output) or (self._answer is not None and self._answer not in says):
            return likely, None
        text = "".join(first.model.codec.output_texts(changed.prompt.encoding.ids, written))
        changes = tuple(choice.change for choice in state)
        return likely, Counterfactual(changes, asked_record(asked), text, likely - self._likely)


def _grown(states: Sequence[tuple[Choice, ...]], choices: Sequence[Choice]) -> Iterator[tuple[Choice, ...]]:
    """Each state with one change more, of another unit; the same changes in another order are no other state."""
    seen: set[frozenset[Change]] = set()
    for state in states:
        for choice in choices:
            if any(choice.change.unit == other.change.unit for other in state):
                continue
            grown = (*state, choice)
            key = frozenset(each.change for each in grown)
            if key not in seen:
                seen.add(key)
                yield grown


@torch.no_grad()
def _read(question: Question) -> tuple[float, bool]:
    """The log-probability of the output after the prompt, and whether it is what the model would write."""
    model, ids = question.model, question.prompt.encoding.ids
    model.check_length(len(ids), len(question.output))
    whole = torch.tensor([[*ids, *question.output][:-1]], device=model.device)
    with model.borrowed():
        logits = model.logits(whole, torch.arange(len(ids) - 1, whole.shape[1]))[0]
    output = torch.tensor(question.output, device=logits.device)
    own = logits.log_softmax(-1).gather(1, output[:, None]).sum()
    return float(own), bool((logits.argmax(1) == output).all())


def _given(
    alternatives: Mapping[Where, Sequence[str]] | Sequence[str], writing: Writing, question: Question
) -> dict[int, list[str]]:
    """The alternatives of every unit that has some; `InputError` for what is none."""
    units = dict(_stretches(question, writing))
    if not isinstance(alternatives, Mapping):
        return {unit: _texts(alternatives) for unit in units}
    found: dict[int, list[str]] = {}
    for part, texts in alternatives.items():
        for stretch in find(part, writing, question.prompt):
            unit = next((unit for unit, own in units.items() if own == stretch), None)
            if unit is None:
                raise InputError(
                    f"Expected alternatives for parts that are units, {part!r} is none. Give other units, for instance "
                    "units={'thing': (10, 16)}."
                )
            found.setdefault(unit, []).extend(_texts(texts))
    return found


def _texts(alternatives: object) -> list[str]:
    if isinstance(alternatives, (str, bytes)) or not isinstance(alternatives, Sequence):
        raise InputError(f"Expected a list of texts, got {alternatives!r}.")
    texts = cast("Sequence[Any]", alternatives)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"Expected a list of texts with something in them, got {alternatives!r}.")
    return list(dict.fromkeys(texts))


def _stretches(question: Question, writing: Writing) -> Iterator[tuple[int, Stretch]]:
    """Every unit that a person wrote, and where in their text it stands."""
    for index, unit in enumerate(question.prompt.units):
        if not unit.special and question.prompt.unit_text(unit).strip():
            yield index, find(index, writing, question.prompt)[0]


def _own(stretch: Stretch, writing: Writing) -> str:
    address, start, end = stretch
    return writing.texts[address][start:end]


@torch.no_grad()
def _proposals(question: Question, unit: int, count: int) -> list[str]:
    """What of the same kind the model finds likeliest in the place of a unit, given what is before it."""
    model, ids = question.model, question.prompt.encoding.ids
    first = question.prompt.units[unit].tokens[0]
    before = ids[:first] or (model.codec.start_id,)
    with model.borrowed():
        logits = model.logits(torch.tensor([before], device=model.device), torch.tensor([len(before) - 1]))[0, 0]
    own = question.prompt.unit_text(question.prompt.units[unit]).strip()
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    found: dict[str, None] = {}
    for token in logits.argsort(descending=True)[:_CONSIDERED].tolist():
        text = model.codec.output_texts(before, [token])[0].strip()
        if token not in special and text.isprintable() and text != own and _kind(text) == _kind(own):
            found[text] = None
        if len(found) == count:
            break
    return list(found)


def _kind(text: str) -> str:
    """What kind of thing a text begins with; nothing at all, and half a character, are kinds of their own."""
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        return "none"
    return "number" if text[0].isdigit() else "word" if text[0].isalpha() else "mark"
