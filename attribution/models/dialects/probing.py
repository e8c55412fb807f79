"""Probing: what an endpoint tells of its model, found out by asking it a few short questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

from attribution.errors import ApiError, CapabilityError, ModelError
from attribution.models.api.request import Request
from attribution.models.dialects.completion import Completion, Piece, read_completion
from attribution.models.dialects.dialect import CHAT, COMPLETIONS, Dialect, Put
from attribution.models.dialects.scoring import Ask, Echo, Forced, PromptLogprobs, Scoring, server_of

QUESTION = "Name the first three letters of the alphabet: A,"
LENGTH = 6
"""Tokens that are written for it."""

LIKELIEST = (20, 5, 1)
"""How many likeliest tokens are asked for, the most that an endpoint gives among these."""

LENGTHS = ("max_tokens", "max_completion_tokens")
"""What the bound on what is written is called."""

ALIKE = 0.05
"""Nats by which a token's log-probability, asked for in another way, may differ: servers batch, and round."""

MOST = 36
"""Calls that finding out takes at most, where none has to be repeated: nearly all of them where all is refused."""

Road = Literal["scored", "likeliest", "texts"]
"""What numbers rest on: log-probabilities of the output itself, those of the likeliest tokens, or texts alone."""

_OWNERS: Mapping[str, str] = {"llamacpp": "llama-server", "vllm": "vllm", "sglang": "sglang", "library": "ollama"}
"""Which server it is whose list of models names this as their owner."""

_OFF: Mapping[str, Mapping[str, Any]] = {
    "llama-server": {"repeat_penalty": 1.0},
    "ollama": {"repeat_penalty": 1.0},
    "vllm": {"repetition_penalty": 1.0, "return_token_ids": True},
    "sglang": {"repetition_penalty": 1.0},
}
"""What turns penalties off that servers have on of themselves, or that come with a model; and what tells ids."""

_REFUSED = frozenset({400, 422})
"""Statuses of an endpoint that has a path, and does not take what was asked there."""

_ABSENT = frozenset({*_REFUSED, 404, 405, 501})
"""Statuses of an endpoint that has no such path for this model."""


@dataclass(frozen=True)
class Capabilities:
    """What an endpoint tells of a model at one of its paths, and how it wants to be asked there.

    `likeliest` is how many of the likeliest tokens it tells, `scoring` how a given output is scored, empty where it is
    not; `reasons` say why it tells no more. `server` is which one it is, where it says so.
    """

    path: str
    server: str = ""
    length: str = "max_tokens"
    takes_temperature: bool = True
    likeliest: int = 0
    scoring: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def road(self) -> Road:
        """What numbers rest on that are asked there."""
        return "scored" if self.scoring else "likeliest" if self.likeliest else "texts"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        return asdict(self) | {"reasons": list(self.reasons)}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Capabilities:
        """What `to_dict` gave."""
        known: dict[str, Any] = {**content, "reasons": tuple(content["reasons"])}
        return cls(**known)

    def dialect(self, model: str, more: Mapping[str, Any]) -> Dialect:
        """How the model is asked."""
        asked = {**_OFF.get(self.server, {}), **more}
        return Dialect(model, self.path, self.length, self.takes_temperature, asked)


@dataclass(frozen=True)
class Probe:
    """Finds out what an endpoint tells of a model; `ask` asks it, `more` stands in every request."""

    base_url: str
    model: str
    more: Mapping[str, Any]
    ask: Ask

    def hear(self, paths: Sequence[str], question: Put = QUESTION) -> Capabilities:
        """What comes back at the first of the paths that the endpoint has for this model.

        Raises `CapabilityError` where it has none of them, `ApiError` where it does not answer.
        """
        server = self._server()
        refusals: list[str] = []
        for path in paths:
            try:
                return self._hear(Capabilities(path, server), question)
            except ApiError as error:
                if error.status not in _ABSENT:
                    raise
                refusals.append(str(error))
        raise CapabilityError(f"{self.model} cannot be asked at {' or '.join(paths)}. {' '.join(refusals)}")

    def reads_alike(self, found: Capabilities, text: str, ids: tuple[int, ...]) -> bool:
        """Whether the endpoint goes on from these ids as from the text that they are to be."""
        dialect = found.dialect(self.model, self.more)
        try:
            one, other = (self._heard(dialect.write(put, LENGTH, found.likeliest)) for put in (text, ids))
        except ApiError as error:
            if error.status not in _ABSENT:
                raise
            return True  # it takes ids alone: there is nothing to compare with
        if not one.pieces or not other.pieces:
            return one.text == other.text
        # The first token alone: which of two comes later may be a matter of rounding.
        own, theirs = one.pieces[0], other.pieces[0]
        return own.name == theirs.name and abs((own.logprob or 0.0) - (theirs.logprob or 0.0)) <= ALIKE

    def _server(self) -> str:
        """Which server it is, where its list of models says so."""
        try:
            listed = self.ask([Request("/models")])[0].get("data")
        except ApiError as error:
            if error.kind in ("connect", "timeout", "401", "403"):  # nothing else would fare better
                raise
            return ""
        models = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        return next((_OWNERS[each["owned_by"]] for each in models if each.get("owned_by") in _OWNERS), "")

    def _hear(self, found: Capabilities, question: Put) -> Capabilities:
        found, completion = self._written(found, question)
        if completion.fault:
            return replace(found, likeliest=0, reasons=(completion.fault,))
        if not completion.pieces or any(piece.logprob is None for piece in completion.pieces):
            return replace(found, likeliest=0, reasons=("it tells no log-probabilities of what it writes",))
        reasons: list[str] = []
        for name in _scorings(found):
            scoring = scoring_of(name, found.dialect(self.model, self.more), self.base_url)
            reason = "" if scoring is None else self._wrong(scoring, question, completion.pieces)
            if not reason:
                return replace(found, scoring=name)
            reasons.append(f"{name}: {reason}")
        return replace(found, reasons=tuple(reasons))

    def _written(self, found: Capabilities, question: Put) -> tuple[Capabilities, Completion]:
        """What it writes, with as many likeliest tokens as it tells, asked in a way that it takes."""
        refusal: ApiError | None = None
        for way, likeliest in _ways(found):
            request = way.dialect(self.model, self.more).write(question, LENGTH, likeliest)
            try:
                completion = self._heard(request)
                if completion.fault or (likeliest and not completion.pieces):  # which may happen once
                    completion = self._heard(replace(request, sample=1))
            except ApiError as error:
                if error.status not in _REFUSED:
                    raise
                refusal = error
                continue
            told = max((len(piece.likeliest) for piece in completion.pieces), default=0)
            return replace(way, likeliest=min(likeliest, told)), completion
        raise cast(ApiError, refusal)

    def _heard(self, request: Request) -> Completion:
        """What was written; no text at all is a fault too, and such a model may be one that thinks first."""
        try:
            return read_completion(self.ask([request])[0])
        except ApiError:
            raise
        except ModelError as error:
            return Completion("", fault=str(error))

    def _wrong(self, scoring: Scoring, question: Put, pieces: Sequence[Piece]) -> str:
        """Why a scoring is not believed; empty where it says of what was written what was told while writing it."""
        reason = ""
        for sample in range(2):  # what is told wrongly once may be right the next time
            try:
                (rendered,) = scoring.rendered([question], self.ask)
                asked = [replace(request, sample=sample) for request in scoring.requests(rendered, pieces)]
                replies = self.ask(asked)
                if lacking := next(filter(None, (scoring.lacking(reply, pieces) for reply in replies)), None):
                    reason = f"it lacks {lacking}"
                    continue
                found = scoring.read(replies, pieces)
            except ApiError as error:
                if error.status not in _ABSENT:
                    raise
                return str(error)
            except ModelError as error:
                reason = str(error)
                continue
            own = [piece.logprob or 0.0 for piece in pieces]
            apart = max(abs(one - other) for one, other in zip(found, own, strict=True))
            if apart <= ALIKE:
                return ""
            reason = f"it differs by up to {apart:.2g} nats from what is told while writing"
        return reason


def scoring_of(name: str, dialect: Dialect, base_url: str) -> Scoring | None:
    """The scoring of this name; None where there is none."""
    if name == Echo.name:
        return Echo(dialect)
    kinds = {Forced.name: Forced, PromptLogprobs.name: PromptLogprobs}
    return kinds[name](dialect, server_of(base_url)) if name else None


def _ways(found: Capabilities) -> Iterator[tuple[Capabilities, int]]:
    """The ways to ask, from the one that tells most; what some endpoints refuse is left out of later ones."""
    for takes_temperature in (True, False):
        for likeliest in (*LIKELIEST, 0):
            for length in LENGTHS:
                yield replace(found, length=length, takes_temperature=takes_temperature), likeliest


def _scorings(found: Capabilities) -> tuple[str, ...]:
    """What is tried at a path, in this order. Servers that pass over what they do not know are asked it in vain."""
    if found.server == "llama-server":
        return (Forced.name,)
    return (PromptLogprobs.name, Echo.name) if found.path == COMPLETIONS else (PromptLogprobs.name,)


PATHS: Mapping[str, Sequence[str]] = {"text": (COMPLETIONS, CHAT), "chat": (CHAT,), "ids": (COMPLETIONS,)}
"""Where a kind of prompt may go."""
