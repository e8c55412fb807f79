"""Question: a prompt as a person wrote it and a target, made ready to be asked of an endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attribution.absence import Replace
from attribution.checks import check_text
from attribution.errors import ApiError, CapabilityError, InputError
from attribution.models.codec import Codec
from attribution.models.dialects.completion import Completion, Piece
from attribution.models.dialects.dialect import CHAT, Put
from attribution.models.remote import RemoteModel
from attribution.outputs import find_outputs
from attribution.prompts.chat import Chat
from attribution.prompts.joined import characters, join
from attribution.prompts.prompt import Prompt, check_prompt, divide
from attribution.prompts.rendered import Rendered
from attribution.prompts.source import text_source
from attribution.prompts.units import Division
from attribution.prompts.writing import Written
from attribution.question import chat_record, prompt_notes, read_prompt
from attribution.remote.absence import Absent, absent_ids, absent_texts
from attribution.remote.asking import Asking, Likeliest, Rewritten, Scored
from attribution.target import Contrast, Semantic, named_target

Target = str | Contrast | Semantic


@dataclass(frozen=True, eq=False)
class AskedPrompt:
    """A prompt in units, as it is put to the endpoint, whole and without some of them."""

    prompt: Prompt
    whole: Put
    absent: Absent
    chat: Mapping[str, Any]
    """The `messages` that it is, and `tools` and `options` where it had some."""
    notes: Mapping[str, Any]
    has_ids: bool


@dataclass(frozen=True, eq=False)
class Answer:
    """An output in tokens, as far as these are told, and how the endpoint is asked about it."""

    output: tuple[Piece, ...]
    asking: Asking
    target: str
    unit: str
    notes: Mapping[str, Any]


def ask_prompt(model: RemoteModel, prompt: Written, division: Division, ablation: str | Replace) -> AskedPrompt:
    """The prompt as this endpoint is asked about it.

    Raises what `explain` raises for these arguments.
    """
    if ablation == "mask":
        raise CapabilityError(
            'ablation="mask" hides tokens within a model, and this one is behind an API. Use ablation="delete" or '
            "Replace(...)."
        )
    if model.codec is not None:
        return _as_ids(model.codec, prompt, division, ablation)
    if isinstance(prompt, Rendered):
        model.capabilities(prompt)  # which says what to do about it
    if division.name == "token":
        raise InputError(
            'Expected units such as "word" or "sentence", got "token": nobody knows the tokens of a model behind an '
            "API. Pass its tokenizer to RemoteModel for these."
        )
    if isinstance(prompt, str):
        source, written = text_source(check_prompt(prompt)), prompt
    else:
        written = prompt if isinstance(prompt, Chat) else Chat(prompt)  # pyright: ignore[reportArgumentType]
        if written.continues:
            raise InputError(
                "Expected messages that end with a user's: endpoints answer, and do not go on with an answer that was "
                "begun. Pass the model's tokenizer to RemoteModel, or leave the last message out."
            )
        source = join(written)
    check_text("prompt", source.text)
    divided = divide(source, characters(source), division)
    chat = chat_record(prompt)
    return AskedPrompt(divided, written, absent_texts(divided, written, ablation), chat, {}, has_ids=False)


def find_answer(
    model: RemoteModel, asked: AskedPrompt, target: Target, output: str | Sequence[int] | None, max_new_tokens: int
) -> Answer:
    """The output, the one that is given, else the model's own, and the best road that the endpoint and target allow."""
    check_target(target)
    if output is not None and not isinstance(output, str):
        raise InputError("Expected the output as a text, got ids: an endpoint is asked about texts.")
    if output is not None and not output:
        raise InputError("Expected an output with at least one token, got none. Leave it out and the model writes.")
    found = model.capabilities(asked.whole)
    notes: dict[str, Any] = {}
    if isinstance(asked.whole, str) and found.path == CHAT:
        notes["as_message"] = True
    road = "texts" if isinstance(target, Semantic) else found.road
    if output is not None and road == "likeliest":
        road = "texts"
        notes["reasons"] = ["it does not tell how likely an output is that it did not write"]
    elif road != "scored" and found.reasons:
        notes["reasons"] = list(found.reasons)
    if isinstance(target, Contrast) and road != "scored":
        raise CapabilityError(
            f"A Contrast asks how likely another output is, which this endpoint does not tell ({found.road}). Use "
            'target="logprob".'
        )
    if road == "texts":
        return _by_texts(model, asked, target, output, max_new_tokens, notes)
    if output is not None:
        pieces = model.read(asked.whole, check_text("output", output))
    else:
        pieces = model.numbered(asked.whole, _written(model, asked, max_new_tokens))
    if found.scoring == "forced" and not all(piece.text for piece in pieces[:-1]):
        raise CapabilityError(
            "Expected an output whose characters are a token each: llama-server does not tell how likely the parts of "
            "one are. Use target=Semantic()."
        )
    if road == "likeliest":
        return Answer(pieces, Likeliest(model, pieces), *_kind(target), notes)
    scored = _scored(model, asked, target, pieces, found.scoring)
    return Answer(_told(pieces, scored, asked.whole), scored, *_kind(target), notes)


def check_target(target: Target) -> None:
    """Raises `CapabilityError` for a target that no endpoint tells enough for."""
    if isinstance(target, Semantic):
        if target.by == "embedding":
            raise CapabilityError(
                "Semantic('embedding') compares embeddings, and nobody has those of a model behind an API. Use "
                "Semantic('overlap')."
            )
        return
    if isinstance(target, Contrast):
        if not target.alternatives:
            raise CapabilityError(
                "Contrast() asks for the model's runners-up, of which an endpoint tells too little. Name the other "
                "output: Contrast('...')."
            )
        return
    if named_target(target).name not in ("logprob", "prob"):
        raise CapabilityError(
            f"The {target} is computed from all of a model's logits, and an endpoint tells log-probabilities. Use "
            'target="logprob" or "prob".'
        )


def _as_ids(codec: Codec, prompt: Written, division: Division, ablation: str | Replace) -> AskedPrompt:
    source = read_prompt(codec, prompt)
    divided = divide(source, codec.encode_source(source), division)
    absent = absent_ids(codec, divided, ablation)
    notes = prompt_notes(source, divided)
    return AskedPrompt(divided, divided.encoding.ids, absent, chat_record(prompt), notes, has_ids=True)


def _by_texts(
    model: RemoteModel,
    asked: AskedPrompt,
    target: Target,
    output: str | None,
    max_new_tokens: int,
    notes: dict[str, Any],
) -> Answer:
    """An output as one text, compared with what the model writes again."""
    semantic = target if isinstance(target, Semantic) else Semantic()
    text = output or _completion(model, asked, max_new_tokens).text
    asking = Rewritten(model, text, semantic, semantic.max_new_tokens or max_new_tokens, model.repeats)
    return Answer((Piece(text, None),), asking, Semantic.name, Semantic.unit, notes)


def _completion(
    model: RemoteModel, asked: AskedPrompt, max_new_tokens: int, *, wants_pieces: bool = True
) -> Completion:
    """What the model writes after the whole prompt."""
    completion = model.written(asked.whole, max_new_tokens, wants_pieces=wants_pieces)
    if not completion.text:
        raise InputError(
            f"Expected a model that writes something after the prompt, it ends at once ({completion.finish}). Pass "
            "output=..., the text whose causes are asked."
        )
    return completion


def _written(model: RemoteModel, asked: AskedPrompt, max_new_tokens: int) -> tuple[Piece, ...]:
    """The tokens of that, without the one that ends it where texts are sent: it is none.

    Where the endpoint never tells tokens that make the text, a character that is split for instance, they are those
    that it reads the text as.
    """
    try:
        completion = _completion(model, asked, max_new_tokens)
    except ApiError as error:
        if error.kind != "incomplete" or not model.capabilities(asked.whole).scoring:
            raise
        return model.read(asked.whole, _completion(model, asked, max_new_tokens, wants_pieces=False).text)
    pieces = completion.pieces
    while not asked.has_ids and pieces and "".join(piece.text for piece in pieces) != completion.text:
        pieces = pieces[:-1]
    return pieces


def _scored(model: RemoteModel, asked: AskedPrompt, target: Target, pieces: tuple[Piece, ...], by: str) -> Scored:
    if not isinstance(target, Contrast):
        return Scored(model, pieces, by=by)
    texts = [piece.text for piece in pieces]
    start, end = 0, len(pieces)
    written = list(target.alternatives)
    if target.instead_of is not None:
        indices = find_outputs(texts, target.instead_of)
        start, end = indices[0], indices[-1] + 1
        written = ["".join(texts[start:end]).replace(target.instead_of, other, 1) for other in written]
    before = "".join(texts[:start])
    others = tuple(model.read(asked.whole, before + check_text("other output", other)) for other in written)
    for other, text in zip(others, written, strict=True):
        if [piece.text for piece in other[:start]] != texts[:start]:
            raise InputError(
                f"Expected another output that begins as this one does, {text!r} changes tokens before it."
            )
    return Scored(model, pieces, others, start, end, by)


def _told(pieces: tuple[Piece, ...], scored: Scored, whole: Put) -> tuple[Piece, ...]:
    """The tokens with their log-probabilities, which are asked for where nobody has told them."""
    if all(piece.logprob is not None for piece in pieces):
        return pieces
    (found,) = scored.model.logprobs([whole], pieces)
    return tuple(replace(piece, logprob=float(logprob)) for piece, logprob in zip(pieces, found, strict=True))


def _kind(target: Target) -> tuple[str, str]:
    """The name of what is read, and its unit."""
    if isinstance(target, str):
        known = named_target(target)
        return known.name, known.unit
    return "contrast", "nats"
