"""What an endpoint's model wrote, token by token, as far as the endpoint tells."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from attribution.errors import ModelError

SENTINEL = -1000.0
"""Nats: what is below stands for "not among the likeliest", as -9999.0 does, and is no log-probability."""


@dataclass(frozen=True)
class Piece:
    """A token: the text that it adds, its log-probability in nats, and the likeliest in its place with theirs.

    A character that is split over several tokens belongs to the first of them. `id` is None where it is not told,
    `logprob` where it is censored: not among the likeliest, and not told for that.
    """

    text: str
    logprob: float | None
    likeliest: tuple[tuple[str, float], ...] = ()
    id: int | None = None
    key: str = ""
    """Its bytes as a text, which may be part of a character."""

    @property
    def name(self) -> str:
        """What it is known by among the likeliest."""
        return self.key or self.text


@dataclass(frozen=True)
class Completion:
    """A text, its tokens where the endpoint tells them, and why it ended ("stop", "length", ...).

    `fault` says why the tokens that it tells are not believed; there are none then.
    """

    text: str
    pieces: tuple[Piece, ...] = ()
    finish: str = ""
    fault: str = ""


def first_choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first of a reply's choices; `ModelError` where it has none."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise ModelError(f"Expected a reply with choices, got one with {', '.join(sorted(reply)) or 'nothing'}.")
    return cast("Mapping[str, Any]", choices[0])


def read_completion(reply: Mapping[str, Any]) -> Completion:
    """What a reply says, be it of a chat or of a completion. What a model says instead of an answer is its text too.

    Raises `ModelError` where there is no text in it.
    """
    choice = first_choice(reply)
    message = choice.get("message")
    said = cast("Mapping[str, Any]", message) if isinstance(message, Mapping) else {}
    finish = str(choice.get("finish_reason") or "")
    # A refusal is what the model wrote.
    text = (said.get("content") or said.get("refusal")) if said else choice.get("text")
    if said and text is None and said.get("content") == "":
        text = ""
    if not isinstance(text, str):
        raise ModelError(f"Expected a reply with a text, its content is {text!r} (finish_reason {finish!r}).")
    told = choice.get("logprobs")
    try:
        pieces = _numbered(tuple(read_pieces(told)), choice) if told else ()
        return Completion(text, _whole(text, pieces, choice, reply), finish)
    except ModelError as error:
        return Completion(text, (), finish, str(error))


def read_pieces(told: Any) -> list[Piece]:
    """The tokens that a reply's `logprobs` tell of, in the form of chats (`content`) or of completions (`tokens`).

    Raises `ModelError` where they do not add up, or are of another form.
    """
    try:
        if not isinstance(told, Mapping):
            raise TypeError(f"{type(told).__name__} in their place")
        return list(_pieces(cast("Mapping[str, Any]", told)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"Expected log-probabilities in the form that OpenAI gives them: {error}.") from error


def _pieces(told: Mapping[str, Any]) -> Iterator[Piece]:
    content = told.get("content") or told.get("refusal")
    if isinstance(content, Sequence):
        if not all(isinstance(entry, Mapping) for entry in content):
            raise TypeError("entries that are none")
        entries = [cast("Mapping[str, Any]", entry) for entry in content]
        texts = texts_of([_bytes(entry) for entry in entries])
        for entry, text in zip(entries, texts, strict=True):
            likeliest = tuple(
                (_key(other), logprob)
                for other in entry.get("top_logprobs") or ()
                if (logprob := read_logprob(other.get("logprob"))) is not None
            )
            yield Piece(text, read_logprob(entry.get("logprob")), likeliest, entry.get("id"), _key(entry))
        return
    tokens, logprobs = told.get("tokens") or (), told.get("token_logprobs") or ()
    if len(tokens) != len(logprobs):
        raise ModelError(f"Expected a log-probability for each of {len(tokens)} tokens, got {len(logprobs)}.")
    tops = told.get("top_logprobs") or [None] * len(tokens)
    for token, logprob, top in zip(tokens, logprobs, tops, strict=False):
        found = {text: read_logprob(given) for text, given in (top or {}).items()}
        known = sorted(((text, own) for text, own in found.items() if own is not None), key=lambda pair: -pair[1])
        yield Piece(str(token), read_logprob(logprob), tuple(known))


def read_logprob(given: object) -> float | None:
    """A log-probability in nats; None where there is none, or what stands for "not among the likeliest".

    Raises `ModelError` for a number that is none.
    """
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)) or math.isnan(given) or given > 1e-3:
        raise ModelError(f"Expected a log-probability, at most 0, the endpoint tells {given!r}.")
    return None if given <= SENTINEL else min(0.0, float(given))


def texts_of(tokens: Sequence[bytes]) -> list[str]:
    """The text that each token's bytes add; a character over several tokens belongs to the first of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    texts, first = [""] * len(tokens), 0
    for index, token in enumerate(tokens):
        was_open = bool(decoder.getstate()[0])
        first = first if was_open else index
        added = decoder.decode(token, final=index + 1 == len(tokens))
        if added and was_open:
            texts[first] += added[0]
            added = added[1:]
        texts[index] += added
    return texts


def _bytes(entry: Mapping[str, Any]) -> bytes:
    """A token's bytes, or those of its text where they are not told."""
    given = entry.get("bytes")
    return bytes(given) if isinstance(given, (list, tuple)) else str(entry.get("token", "")).encode(errors="replace")


def _key(entry: Mapping[str, Any]) -> str:
    """A token's bytes as a text, whatever they are."""
    return _bytes(entry).decode(errors="surrogateescape")


def _numbered(pieces: tuple[Piece, ...], choice: Mapping[str, Any]) -> tuple[Piece, ...]:
    """The tokens with their ids, where the reply has these beside them."""
    ids: list[Any] | None = choice.get("token_ids")
    if not ids or len(ids) != len(pieces):
        return pieces
    return tuple(replace(piece, id=int(token)) for piece, token in zip(pieces, ids, strict=True))


def _whole(
    text: str, pieces: tuple[Piece, ...], choice: Mapping[str, Any], reply: Mapping[str, Any]
) -> tuple[Piece, ...]:
    """The tokens that make the text; one that ends it and is not shown is among them where its id is told.

    Raises `ModelError` where they do not make it, and where there are fewer of them than tokens were written.
    """
    if not pieces:
        return ()
    usage = reply.get("usage")
    written = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    if type(written) is int:
        details: Any = cast("Mapping[str, Any]", usage).get("completion_tokens_details") or {}
        written -= details.get("reasoning_tokens") or 0
        # The token that ends the text is counted, and by some not told.
        is_ended = choice.get("finish_reason") != "length" and "".join(piece.text for piece in pieces) == text
        if len(pieces) not in (written, written - (is_ended and pieces[-1].text != "")):
            raise ModelError(f"Expected as many log-probabilities as tokens, got {len(pieces)} of {written}.")
    together = ""
    for index, piece in enumerate(pieces):
        if together == text and (piece.text or (index + 1 == len(pieces) and not piece.key)):
            return pieces[: index + 1] if piece.id is not None else pieces[:index]
        together += piece.text
    if together != text:
        raise ModelError(f"Expected tokens that make the text {text!r}, got {[piece.text for piece in pieces]!r}.")
    return pieces
