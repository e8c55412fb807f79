"""Counterfactuals: the smallest change of a prompt that makes a model answer otherwise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from attribution.checks import check_count
from attribution.errors import InputError
from attribution.experiments.alternatives import given_alternatives, proposed_alternatives, spend, written_units
from attribution.experiments.what_if import WHOLE, said, written_text
from attribution.explainer import ModelSource, explain
from attribution.frames import frame
from attribution.method import Method
from attribution.models import load_local
from attribution.outputs import Outputs, find_outputs
from attribution.prompts.units import Units, check_units
from attribution.prompts.writing import Stretch, Where, Writing, Written, characters_of, read_writing, text_of
from attribution.question import Question, ask, asked_record
from attribution.result import Attribution
from attribution.surfaces import Surfaces
from attribution.views.words import numbered

if TYPE_CHECKING:
    from attribution.views.terminal.counterfactual import CounterfactualsView
    from attribution.views.web.html import HtmlView

SCHEMA = 1
"""Version of the layout of `Counterfactuals.to_dict`."""


@dataclass(frozen=True)
class Change:
    """A unit of the prompt, by its index and text, and the text that stands in its place.

    `name` is the text in quotes, and which one it is where several units say the same: "'Sam' (2 of 2)". `part` is
    where it stands in what the person wrote, as characters that `Edit.replace` takes.
    """

    unit: int
    text: str
    alternative: str
    name: str
    part: Where

    def __str__(self) -> str:
        return f"{self.name} → {self.alternative!r}"


@dataclass(frozen=True)
class Counterfactual:
    """Changes with which the model answers otherwise; `str` says them in words.

    `prompt` is what was asked then, `output` what the model wrote. `change` is the log-probability of the first output
    after that prompt minus the one after the prompt as it was, in nats: below 0 it has become less likely.
    """

    changes: tuple[Change, ...]
    prompt: Any
    output: str
    change: float

    def __str__(self) -> str:
        return ", ".join(map(str, self.changes))


@dataclass(frozen=True)
class Counterfactuals(Surfaces):
    """The smallest changes that were found, those of the strongest units first; none where nothing was found.

    All in `found` have as many changes. How strong these are is the sum of their units' ranks. `output` is what the
    model writes after the prompt as it is. `tried` changed prompts were looked at; those that the model cannot be asked
    (too long, or refused by its chat template) count, and are skipped.
    """

    prompt: Any
    output: str
    found: tuple[Counterfactual, ...]
    tried: int
    limited_by: tuple[str, ...]
    """Which of `beam`, `keep` and `max_tries` left something out; see `is_complete`."""
    cost: Mapping[str, int]
    """`forwards`, `backwards` and `tokens` that the attribution, the proposals, the tries and the writing took; every
    token that was written is one pass."""
    attribution: Attribution
    """The result by which units were ranked."""

    @property
    def is_complete(self) -> bool:
        """Whether everything up to so many changes, or to `max_changes` where nothing was found, was tried.

        Else there may be others, and where those in `found` are of several changes, smaller ones.
        """
        return not self.limited_by

    def to_dict(self) -> dict[str, Any]:
        """Everything in it as plain lists, numbers and texts, ready for JSON; `edit` says changes in words."""
        return {
            "schema": SCHEMA,
            "prompt": self.prompt,
            "output": self.output,
            "found": [{"edit": str(each)} | asdict(each) for each in self.found],
            "tried": self.tried,
            "is_complete": self.is_complete,
            "limited_by": list(self.limited_by),
            "cost": dict(self.cost),
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
        from attribution.views.terminal.counterfactual import CounterfactualsView

        return CounterfactualsView(self.to_dict())

    def html_view(self) -> HtmlView:
        """What a browser shows: `page()` is a whole page, `notebook()` what fits into a notebook."""
        from attribution.views.web.html import HtmlView
        from attribution.views.web.payload import counterfactuals_payload

        return HtmlView(counterfactuals_payload(self.to_dict()), str(self))


def counterfactuals(
    model: ModelSource,
    prompt: Written,
    alternatives: Mapping[Where, Sequence[str]] | Sequence[str] | None = None,
    *,
    outputs: Outputs = None,
    answer: str | None = None,
    units: Units = "word",
    method: str | Method = "default",
    max_changes: int = 2,
    beam: int = 5,
    proposals: int = 5,
    max_tries: int = 500,
    keep: int = 10,
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
    - `max_tries`: how many changed prompts are looked at, at most. Each takes one forward pass, and the passes that
      writing takes where the model answers otherwise, up to `max_new_tokens`. The attribution comes on top, and for
      proposals a pass over the prompt for every 512 units. `cost` says what all of it took.
    - `keep`: how many changes are kept that lead to another answer. One more ends the search.

    Raises `InputError` where an argument is not as above, and what `explain` raises.

    >>> import attribution as at
    >>> question = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
    >>> found = at.counterfactuals("demo", question, {"3": ["4"], "5": ["4"], "Tom": ["Ann"]}).found
    >>> print(found[0], "makes it say", found[0].output.strip())
    '3' → '4' makes it say The answer is 4.<eos>
    """
    wanted = _check_answer(answer)
    limits = _Limits(
        check_count("max_changes", max_changes),
        check_count("beam", beam),
        check_count("max_tries", max_tries),
        check_count("keep", keep),
        check_count("max_new_tokens", max_new_tokens),
    )
    n_proposals = check_count("proposals", proposals)
    local = load_local(model, "counterfactuals")
    question = ask(local, prompt, check_units(units), "logprob", None, limits.max_new_tokens)
    find_outputs(question.output_texts, outputs)  # a mistake is told before anything is computed
    writing = read_writing(prompt)
    stretches = dict(written_units(question, writing))
    given = None if alternatives is None else given_alternatives(alternatives, writing, question)
    result = explain(local, prompt, output=question.output, units=units, method=method)
    cost = dict(result.cost)
    spend(cost, len(question.output), len(question.prompt.encoding.ids) + len(question.output) - 1)  # its own answer
    texts = proposed_alternatives(question, list(stretches), n_proposals, cost) if given is None else given
    strength = np.abs(result.total(outputs))
    choices = _choices(texts, stretches, writing, sorted(stretches, key=lambda unit: -strength[unit]))
    if not choices:
        raise InputError("Expected alternatives that differ from what stands in the prompt, got none. Give others.")
    search = _Search(question, writing, wanted, limits, cost)
    found = search.run(choices)
    return Counterfactuals(
        prompt=asked_record(prompt),
        output="".join(question.output_texts),
        found=tuple(found),
        tried=search.tried,
        limited_by=tuple(sorted(search.limited_by)),
        cost=cost,
        attribution=result,
    )


@dataclass(frozen=True)
class Choice:
    """A change, the characters of the person's text that it is made in, and its unit's rank: 0 for the strongest."""

    change: Change
    stretch: Stretch
    rank: int


State = tuple[Choice, ...]
"""Changes of different units, made at once."""


@dataclass(frozen=True)
class _Limits:
    """What `counterfactuals` may do, and what the model may write."""

    max_changes: int
    beam: int
    max_tries: int
    keep: int
    max_new_tokens: int


class _Search:
    """Reads changed prompts, the most promising first, until the answer is another; what that takes goes to `cost`."""

    def __init__(
        self, question: Question, writing: Writing, answer: str | None, limits: _Limits, cost: dict[str, int]
    ) -> None:
        self._question, self._writing, self._answer = question, writing, answer
        self._limits, self._cost = limits, cost
        self._likely = self._read(question)[0]
        self.tried = 0
        self.limited_by: set[str] = set()

    def run(self, choices: Sequence[Choice]) -> list[Counterfactual]:
        """The smallest changes that lead to another answer, none where there are none among those that were tried."""
        grown: list[State] = [()]
        with tqdm(total=self._limits.max_tries, desc="counterfactuals", disable=None, delay=1, leave=False) as bar:
            for size in range(1, self._limits.max_changes + 1):
                states = list(_grown(grown, choices))
                if len(states) < _count(choices, size):
                    self.limited_by.add("beam")
                weighed, found = self._weigh(states, bar)
                if found or not states or "max_tries" in self.limited_by:
                    strongest = sorted(found, key=lambda each: sum(choice.rank for choice in each[0]))
                    return [other for _, other in strongest]
                grown = [state for _, state in sorted(weighed, key=lambda each: each[0])[: self._limits.beam]]
        return []

    def _weigh(
        self, states: Sequence[State], bar: Any
    ) -> tuple[list[tuple[float, State]], list[tuple[State, Counterfactual]]]:
        """How likely each of these leaves the first output, and those that lead to another, as far as limits allow."""
        weighed: list[tuple[float, State]] = []
        found: list[tuple[State, Counterfactual]] = []
        for state in states:
            if self.tried == self._limits.max_tries:
                self.limited_by.add("max_tries")
                break
            likely, other = self._try(state)
            bar.update()
            weighed.append((likely, state))
            if other is not None and len(found) == self._limits.keep:
                self.limited_by.add("keep")
                break
            if other is not None:
                found.append((state, other))
        return weighed, found

    def _try(self, state: State) -> tuple[float, Counterfactual | None]:
        """How likely the first output is after these changes, and what the model says where that is something else.

        What cannot be asked says nothing, and is gone on with last.
        """
        first, longest = self._question, self._limits.max_new_tokens
        self.tried += 1
        try:
            asked = self._writing.edited({choice.stretch: choice.change.alternative for choice in state})
            changed = ask(first.model, asked, WHOLE, "logprob", first.output)
            first.model.check_length(len(changed.prompt.encoding.ids), longest)
        except InputError:
            return math.inf, None
        likely, is_greedy = self._read(changed)
        if is_greedy:
            return likely, None
        (written,), computed = first.model.generate_all(torch.tensor([changed.prompt.encoding.ids]), longest)
        spend(self._cost, len(written), computed)
        says = said(changed, written)
        if says == said(first, first.output) or (self._answer is not None and self._answer not in says):
            return likely, None
        changes = tuple(choice.change for choice in state)
        text = written_text(changed, written)
        return likely, Counterfactual(changes, asked_record(asked), text, likely - self._likely)

    @torch.no_grad()
    def _read(self, question: Question) -> tuple[float, bool]:
        """The log-probability of the output after the prompt, and whether it is what the model would write."""
        model, ids = question.model, question.prompt.encoding.ids
        whole = torch.tensor([[*ids, *question.output][:-1]], device=model.device)
        with model.borrowed():
            logits = model.logits(whole, torch.arange(len(ids) - 1, whole.shape[1]))[0]
        spend(self._cost, 1, whole.shape[1])
        output = torch.tensor(question.output, device=logits.device)
        own = logits.log_softmax(-1).gather(1, output[:, None]).sum()
        return float(own), bool((logits.argmax(1) == output).all())


def _grown(states: Sequence[State], choices: Sequence[Choice]) -> Iterator[State]:
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


def _count(choices: Sequence[Choice], size: int) -> int:
    """How many states of so many changes there are."""
    ways = [1] + [0] * size  # with the units so far, by the number of changes
    for alternatives in Counter(choice.change.unit for choice in choices).values():
        for changes in range(size, 0, -1):
            ways[changes] += alternatives * ways[changes - 1]
    return ways[size]


def _choices(
    texts: Mapping[int, Sequence[str]], stretches: Mapping[int, Stretch], writing: Writing, ranked: Sequence[int]
) -> list[Choice]:
    """Every change that may be made, those of the strongest unit first."""
    owns = {unit: text_of(stretch, writing) for unit, stretch in stretches.items()}
    names = dict(zip(owns, numbered(list(map(repr, owns.values()))), strict=True))
    choices: list[Choice] = []
    for rank, unit in enumerate(ranked):
        for text in dict.fromkeys(texts.get(unit, ())):
            if text != owns[unit]:
                change = Change(unit, owns[unit], text, names[unit], characters_of(stretches[unit]))
                choices.append(Choice(change, stretches[unit], rank))
    return choices


def _check_answer(answer: object) -> str | None:
    """The answer that is wanted, as a model would write it; `InputError` for what is no text, or a blank one."""
    if answer is None:
        return None
    if not isinstance(answer, str) or not answer.strip():
        raise InputError(
            f"Expected what the other answer has to say as a text, got {answer!r}. Type for instance "
            'answer="4", or leave it out for any other answer.'
        )
    return answer.strip()
