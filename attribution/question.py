"""Question: a prompt as a person wrote it, an output and a target, made ready to be asked of a model."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from attribution.checks import check_text
from attribution.errors import InputError
from attribution.models.codec import Codec
from attribution.models.local import LocalModel
from attribution.outputs import find_outputs
from attribution.prompts.chat import Chat, Message
from attribution.prompts.prompt import Prompt, check_prompt, divide
from attribution.prompts.rendered import Rendered
from attribution.prompts.source import Source, text_source
from attribution.prompts.units import Division
from attribution.prompts.writing import Written
from attribution.target import (
    Contrast,
    Ids,
    Reading,
    Semantic,
    Target,
    named_target,
    read_contrast,
    read_output,
    read_runner_up,
)


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt in units, an output, and where in it the target is read; `semantic` where the output is written anew."""

    model: LocalModel
    prompt: Prompt
    output: Ids
    reading: Reading
    target: str | Contrast | Semantic
    division: Division
    semantic: Semantic | None = None
    chat: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The `messages` that the prompt was rendered from, and its `tools` and `options` where it had some."""
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What became of the prompt on its way to the model, as JSON holds it."""

    @property
    def output_texts(self) -> list[str]:
        """The text that each token of the output adds."""
        return self.model.codec.output_texts(self.prompt.encoding.ids, self.output)


def ask(
    model: LocalModel,
    prompt: Written,
    division: Division,
    target: str | Contrast | Semantic,
    output: str | Sequence[int] | None = None,
    max_new_tokens: int = 20,
    *,
    guess_output: bool = False,
) -> Question:
    """The question about this prompt; the output is the one given, else the model's own.

    With `guess_output` one that is not given is taken to be `max_new_tokens` long, and the model is not asked. Raises
    what `explain` raises for these arguments.
    """
    wanted = target if isinstance(target, (Contrast, Semantic)) else named_target(target)
    source = read_prompt(model.codec, prompt)
    encoding = model.codec.encode_source(source)
    divided = divide(source, encoding, division)
    if guess_output and output is None:
        if isinstance(wanted, Contrast):
            raise InputError("Expected an output for a dry run of a Contrast, got none. Pass output=...")
        ids = encoding.ids[-1:] * max_new_tokens
    else:
        ids = find_output(model, divided, output, max_new_tokens)
    reading = read_target(model, divided, ids, wanted)
    semantic = wanted if isinstance(wanted, Semantic) else None
    notes = prompt_notes(source, divided)
    return Question(model, divided, ids, reading, target, division, semantic, chat_record(prompt), notes)


def asked_record(prompt: Written) -> Any:
    """A prompt as JSON holds it: a text, messages, or a dict of what a `Chat` or a `Rendered` prompt is made of."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Rendered):
        return {"text": prompt.text, "spans": [list(span) for span in prompt.spans]}
    if not isinstance(prompt, Chat):
        prompt = Chat(prompt)
    messages = [dict(message) for message in prompt.messages]
    if prompt.tools is None and not prompt.options:
        return messages
    tools = [tool if isinstance(tool, dict) else getattr(tool, "__name__", str(tool)) for tool in prompt.tools or ()]
    return {"messages": messages, "tools": tools, "options": dict(prompt.options)}


def read_prompt(codec: Codec, prompt: object) -> Source:
    """What the model reads of a prompt as a person gives it.

    Raises `InputError` for a prompt that is none, and for a chat that the model's template does not take.
    """
    if isinstance(prompt, Rendered):
        return prompt.source
    if isinstance(prompt, Chat):
        return codec.render(prompt)
    if isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes)):
        return codec.render(Chat(cast("Sequence[Message]", prompt)))
    return text_source(check_prompt(prompt))


def read_target(model: LocalModel, prompt: Prompt, output: Ids, target: Target | Contrast | Semantic) -> Reading:
    """Where the target is read; the model itself says what its runners-up are."""
    if isinstance(target, Semantic):
        return read_output(output, named_target("logprob"))
    if isinstance(target, Target):
        return read_output(output, target)
    ids = prompt.encoding.ids
    if not target.alternatives:
        return read_runner_up(output, model.runners_up(ids, output))
    texts = model.codec.output_texts(ids, output)
    if target.instead_of is None:
        start, end = 0, len(output)
        written = target.alternatives
        ending = output[-1:] if output[-1] in model.stop_ids else ()
    else:
        indices = find_outputs(texts, target.instead_of)
        start, end = indices[0], indices[-1] + 1
        replaced = "".join(texts[start:end])
        written = [replaced.replace(target.instead_of, other, 1) for other in target.alternatives]
        ending = ()
    before = "".join(texts[:start])
    alternatives: list[Ids] = []
    for other in written:
        added = encode_after(model, prompt, before, (*ids, *output[:start]), check_text("other output", other))
        if (*added, *ending) == output[start:end]:
            raise InputError(f"Expected another output than the output itself, got {other!r}.")
        alternatives.append((*output[:start], *added, *ending))
    return read_contrast(output, alternatives, start, end)


def find_output(model: LocalModel, prompt: Prompt, output: str | Sequence[int] | None, max_new_tokens: int) -> Ids:
    """The ids of the output that is given, else of what the model writes."""
    ids = prompt.encoding.ids
    if output is None:
        model.check_length(len(ids), max_new_tokens)
        return model.generate(ids, max_new_tokens)
    if isinstance(output, str):
        given = encode_after(model, prompt, "", ids, check_text("output", output)) if output else ()
    else:
        given = _check_output_ids(output, model.vocabulary_size)
    if not given:
        raise InputError("Expected an output with at least one token, got none. Leave it out and the model writes.")
    return given


def encode_after(model: LocalModel, prompt: Prompt, before: str, ids: Ids, text: str) -> Ids:
    """The ids of a text that follows the prompt and what was written `before`, whose ids together are given."""
    return model.codec.encode_output(prompt.text + before, ids, text, add_special=prompt.tokenizer_adds)


def chat_record(prompt: Written) -> dict[str, Any]:
    """The messages, tools and options of a chat; nothing for another prompt."""
    record = asked_record(prompt)
    if isinstance(record, list):
        return {"messages": record}
    return record if isinstance(record, dict) and "messages" in record else {}


def prompt_notes(source: Source, prompt: Prompt) -> dict[str, Any]:
    """What became of the prompt on its way to the model."""
    found: dict[str, Any] = {}
    if prompt.encoding.aligned:
        found["aligned"] = True
    halves = sum("\ud800" <= character <= "\udfff" for character in source.text)
    if halves:
        found["half_characters"] = halves
    if source.left_out:
        found["left_out"] = [
            {"message": message, "place": place, "start": start, "end": end}
            for message, place, start, end in source.left_out
        ]
    if prompt.swallowed:
        found["swallowed"] = [{"message": part.message, "place": part.place} for part in prompt.swallowed]
    if not all(part.is_exact for part in source.parts):
        found["recovered"] = [
            {"message": part.message, "place": part.place} for part in source.parts if not part.is_exact
        ]
    return found


def _check_output_ids(output: object, vocabulary: int) -> Ids:
    """Ids that a person passed, whatever they are held in; `InputError` for anything else."""
    try:
        items = list(cast(Any, output))
        ids = tuple(vocabulary if isinstance(i, (bool, str, bytes)) else operator.index(i) for i in items)
    except TypeError:
        ids = (vocabulary,)
    if isinstance(output, bytes) or not all(0 <= i < vocabulary for i in ids):
        raise InputError(
            f"Expected the output as a text, or as token ids from 0 to {vocabulary - 1} in a flat list, got {output!r}."
        )
    return ids
