"""Experiments: the prompt is changed, and what the model then says decides what an attribution only suggests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from attribution.assembly import versions
from attribution.checks import check_count
from attribution.errors import InputError
from attribution.experiments.edits import Edit, apply
from attribution.explainer import ModelSource
from attribution.frames import frame
from attribution.local_problem import LocalProblem
from attribution.models import load_local
from attribution.outputs import Outputs, find_outputs
from attribution.prompts.chat import Chat
from attribution.prompts.rendered import Rendered
from attribution.prompts.units import Units, check_units
from attribution.prompts.writing import Written, read_writing
from attribution.question import Question, ask, asked_record
from attribution.surfaces import Surfaces
from attribution.target import Contrast, Ids, Semantic

if TYPE_CHECKING:
    from attribution.views.terminal.experiment import WhatIfView
    from attribution.views.web.html import HtmlView

SCHEMA = 1
"""Version of the layout of `WhatIf.to_dict`."""

WHOLE = check_units("message")
"""How a changed prompt is divided, whose units nobody asks for."""


@dataclass(frozen=True)
class Variant:
    """What becomes of the answer after one edit.

    `edit` says in words what was changed, `prompt` is what was asked then, `output` what the model wrote. `value` is
    the target of the *first* output after the changed prompt, `change` how much more or less that is than before; both
    in the target's unit, nats by default. `changed` says whether the model answers otherwise.
    """

    edit: str
    prompt: Any
    output: str
    value: float
    change: float
    changed: bool


@dataclass(frozen=True)
class WhatIf(Surfaces):
    """A prompt and what becomes of its answer when it is edited.

    `output` is the output whose target is measured, `asked` the part of it that is meant, `answer` what the model
    writes by itself. `value` is the target of the output after the prompt as it was, summed over the part that is
    meant, in `unit`.
    """

    prompt: Any
    output: str
    asked: str
    answer: str
    target: str
    unit: str
    value: float
    variants: tuple[Variant, ...]
    max_new_tokens: int
    model: Mapping[str, Any]
    """The model that was asked: `name`, `architecture`, `dtype`, `revision`."""
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Everything in it as plain lists, numbers and texts, ready for JSON."""
        return {"schema": SCHEMA} | asdict(self)

    def to_frame(self) -> Any:
        """A table with one row per edit, of pandas or polars; `MissingExtraError` where neither is installed."""
        names = ("edit", "output", "value", "change", "changed")
        return frame({name: [getattr(variant, name) for variant in self.variants] for name in names})

    def text_view(self) -> WhatIfView:
        """What a terminal shows. `rich` prints it, `str` makes plain text of it."""
        from attribution.views.terminal.experiment import WhatIfView

        return WhatIfView(self.to_dict())

    def html_view(self) -> HtmlView:
        """What a browser shows: `page()` is a whole page, `notebook()` what fits into a notebook."""
        from attribution.views.web.html import HtmlView
        from attribution.views.web.payload import what_if_payload

        return HtmlView(what_if_payload(self.to_dict()), str(self))


def whatif(
    model: ModelSource,
    prompt: Written,
    edits: Edit | Written | Sequence[Edit | Written],
    *,
    output: str | Sequence[int] | None = None,
    outputs: Outputs = None,
    units: Units = "word",
    target: str | Contrast | Semantic = "logprob",
    max_new_tokens: int = 20,
) -> WhatIf:
    r"""What the model answers when the prompt is edited, and how much less likely that makes the answer it gave.

    - `edits`: `Edit`s, or prompts written by hand; each is made by itself, of the prompt as it was.
    - `output`: the output that is measured; None for what the model writes after the prompt.
    - `outputs`: the part of it that is meant, as `Attribution.total` takes it, for instance `"3"`.
    - `units`: what an index in an `Edit` means, as in `explain`.
    - `target`: what is measured, as in `explain`. Of a `Contrast` the other texts, and runners-up, stay those of the
      prompt as it was.

    Every edit takes one forward pass for the target and the passes that writing takes. Raises `InputError` where an
    edit does not fit the prompt, and what `explain` raises.

    >>> import attribution as at
    >>> question = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
    >>> found = at.whatif("demo", question, at.Edit.swap("Sam has", "Tom has"))
    >>> found.answer, found.variants[0].output, found.variants[0].changed
    ('\n\nThe answer is 3.<eos>', '\n\nThe answer is 5.<eos>', True)
    """
    tokens_allowed = check_count("max_new_tokens", max_new_tokens)
    division = check_units(units)
    if outputs is not None and isinstance(target, Semantic):
        raise InputError("Expected no outputs with a Semantic target, which is about the whole output. Leave them out.")
    local = load_local(model, "whatif")
    first = ask(local, prompt, division, target, output, tokens_allowed)
    chosen = find_outputs(first.output_texts, outputs)
    # All of them are made ready before the model writes, so that a mistake in the last costs nothing.
    changed = list(_changed(first, prompt, edits, tokens_allowed))
    value = measure(first, chosen)
    answer = first.output if output is None else local.generate(first.prompt.encoding.ids, tokens_allowed)
    variants: list[Variant] = []
    for words, asked, question in changed:
        written = local.generate(question.prompt.encoding.ids, tokens_allowed)
        found = measure(question, chosen)
        is_other = said(question, written) != said(first, answer)
        variants.append(
            Variant(words, asked_record(asked), written_text(question, written), found, found - value, is_other)
        )
    texts = first.output_texts
    return WhatIf(
        prompt=asked_record(prompt),
        output="".join(texts),
        asked="".join(texts[index] for index in chosen),
        answer=written_text(first, answer),
        target=str(target),
        unit=target.unit if isinstance(target, Semantic) else first.reading.target.unit,
        value=value,
        variants=tuple(variants),
        max_new_tokens=tokens_allowed,
        model=local.describe(),
        versions=versions(),
    )


def _changed(
    first: Question, prompt: Written, edits: object, max_new_tokens: int
) -> Iterator[tuple[str, Written, Question]]:
    """Every edit in words, the prompt that it makes, and the first question asked of that."""
    writing = read_writing(prompt)
    for edit in _edits(edits):
        asked, words = apply(edit, writing, first.prompt)
        question = ask(first.model, asked, WHOLE, "logprob", first.output)
        if question.prompt.encoding.ids == first.prompt.encoding.ids:
            raise InputError(
                f"Expected edits that change what the model reads, {words} does not: it is what stands there, or the "
                "chat template leaves it out. Give another edit."
            )
        first.model.check_length(len(question.prompt.encoding.ids), max_new_tokens)
        # The very ids that the first question is about, a contrast's others too.
        yield words, asked, replace(question, reading=first.reading, target=first.target, semantic=first.semantic)


def measure(question: Question, outputs: Sequence[int]) -> float:
    """The target of some output tokens after the prompt as it is, summed; a `Semantic` one is of the whole output."""
    problem = LocalProblem(question.model, question.prompt, question.reading, semantic=question.semantic)
    values = problem.value(problem.everything())[0]
    return float(values[0] if question.semantic is not None else values[list(outputs)].sum())


def said(question: Question, output: Ids) -> str:
    """What an output says, without the token that ends it and white space around it."""
    stops = question.model.stop_ids
    return written_text(question, tuple(token for token in output if token not in stops)).strip()


def written_text(question: Question, output: Ids) -> str:
    """The text of an output that follows the question's prompt."""
    return "".join(question.model.codec.output_texts(question.prompt.encoding.ids, output))


def _edits(edits: object) -> Iterator[Edit]:
    """Each edit; a prompt written by hand is one too."""
    if isinstance(edits, (Edit, str, Chat, Rendered)) or _is_chat(edits):
        edits = [edits]
    if not isinstance(edits, Sequence) or not edits:
        raise InputError(f"Expected at least one edit, such as Edit.remove('Tom') or another prompt, got {edits!r}.")
    for edit in cast("Sequence[Any]", edits):
        if isinstance(edit, Edit):
            yield edit
        elif isinstance(edit, (str, Chat, Rendered)) or _is_chat(edit):
            yield Edit.rewrite(edit)
        else:
            raise InputError(f"Expected an Edit, or a prompt written by hand, got {edit!r}.")


def _is_chat(value: object) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(each, Mapping) for each in cast(Any, value))
