"""Scoring: how an endpoint is asked for the log-probabilities of a given output, and how its replies are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit, urlunsplit

from attribution.errors import ModelError
from attribution.models.api.request import Request
from attribution.models.api.spending import usage
from attribution.models.dialects.completion import Piece, first_choice, read_logprob, read_pieces, texts_of
from attribution.models.dialects.dialect import CHAT, COMPLETIONS, Dialect, Put

Reply = Mapping[str, Any]
Ask = Callable[[Sequence[Request]], list[dict[str, Any]]]
"""Gives the replies; raises `ApiError` where the endpoint refuses."""

FORCE = 1e4
"""Added to a token's logit to have it written whatever the others are; what is told of it is without that."""


@dataclass(frozen=True)
class Scoring(ABC):
    """Asks for the log-probability of every token of an output after a prompt, exactly."""

    name: ClassVar[str]
    dialect: Dialect

    def rendered(self, prompts: Sequence[Put], ask: Ask) -> list[Put]:
        """The prompts as they are scored, where the server is to say first what it makes of them."""
        return list(prompts)

    @abstractmethod
    def requests(self, prompt: Put, output: Sequence[Piece]) -> list[Request]:
        """What is to be asked of one prompt."""

    @abstractmethod
    def read(self, replies: Sequence[Reply], output: Sequence[Piece]) -> list[float]:
        """The log-probabilities in nats; `ModelError` where the replies do not add up."""

    @abstractmethod
    def lacking(self, reply: Reply, output: Sequence[Piece]) -> str | None:
        """What one of the replies lacks that every such reply has; None where it is whole."""

    @abstractmethod
    def pieces(self, prompt: Put, output: str, ask: Ask) -> tuple[Piece, ...]:
        """The tokens that a given output has after a prompt."""


@dataclass(frozen=True)
class _ReadBack(Scoring):
    """One request per prompt, whose reply tells the log-probability of everything that was read."""

    @abstractmethod
    def tokens(self, reply: Reply) -> list[Piece]:
        """The tokens that were read, to the output's last."""

    def read(self, replies: Sequence[Reply], output: Sequence[Piece]) -> list[float]:
        read = self.tokens(replies[0])
        if all(piece.id is not None for piece in output) and len(read) > len(output):
            last = read[len(read) - len(output) :]
            if [piece.id for piece in last] == [piece.id for piece in output]:  # whatever texts are told of them
                return [_told(piece) for piece in last]
        return spread(read, output)

    def lacking(self, reply: Reply, output: Sequence[Piece]) -> str | None:
        try:
            read = self.tokens(reply)
        except ModelError as error:
            return str(error)
        told = usage(reply)
        if told is not None and len(read) != told[0]:
            return f"log-probabilities of {len(read)} out of {told[0]} tokens"
        return "a log-probability" if any(piece.logprob is None for piece in read[1:][-len(output) :]) else None

    def pieces(self, prompt: Put, output: str, ask: Ask) -> tuple[Piece, ...]:
        return tuple(ending(self.tokens(ask(self.requests(prompt, [Piece(output, None)]))[0]), output))


@dataclass(frozen=True)
class Echo(_ReadBack):
    """Reads prompt and output back, with the log-probability of each token: `echo` of `/completions`."""

    name: ClassVar[str] = "echo"

    def requests(self, prompt: Put, output: Sequence[Piece]) -> list[Request]:
        asked = self.dialect.body(prompt)
        asked |= {"prompt": _followed(asked["prompt"], output), "echo": True, "logprobs": 1, self.dialect.length: 1}
        return [Request(self.dialect.path, asked)]

    def tokens(self, reply: Reply) -> list[Piece]:
        told = first_choice(reply).get("logprobs")
        if not isinstance(told, Mapping):
            raise ModelError("Expected log-probabilities of the prompt with echo, got none.")
        # The token that had to be written on top is no part of what was asked.
        return read_pieces(told)[:-1]


@dataclass(frozen=True)
class PromptLogprobs(_ReadBack):
    """vLLM's `prompt_logprobs`: the log-probability of every token that was read.

    Messages are put as the ids that the server's template and tokenizer make of them.
    """

    name: ClassVar[str] = "prompt_logprobs"
    server: str

    def rendered(self, prompts: Sequence[Put], ask: Ask) -> list[Put]:
        if self.dialect.path != CHAT:
            return list(prompts)
        return [tuple(_field(reply, "tokens", list)) for reply in ask(list(map(self._template, prompts)))]

    def requests(self, prompt: Put, output: Sequence[Piece]) -> list[Request]:
        if self.dialect.path == CHAT and not isinstance(prompt, tuple):
            # What the template makes of it is not known before it was asked, only that one question follows.
            return [self._template(prompt), *self.requests((0,), output)]
        dialect = replace(self.dialect, path=COMPLETIONS)
        asked = dialect.body(prompt)
        asked |= {"prompt": _followed(asked["prompt"], output), "prompt_logprobs": 0, dialect.length: 1}
        return [Request(COMPLETIONS, asked)]

    def pieces(self, prompt: Put, output: str, ask: Ask) -> tuple[Piece, ...]:
        if self.dialect.path != CHAT:
            return super().pieces(prompt, output, ask)
        (rendered,) = self.rendered([prompt], ask)
        wanted = {"model": self.dialect.model, "prompt": output, "add_special_tokens": False}
        ids = _field(ask([Request(f"{self.server}/tokenize", wanted)])[0], "tokens", list)
        read = self.tokens(ask(self.requests(rendered, [Piece("", None, (), token) for token in ids]))[0])
        return tuple(ending(read, output))

    def _template(self, prompt: Put) -> Request:
        wanted = ("model", "messages", "tools", "chat_template_kwargs")
        body = {key: given for key, given in self.dialect.body(prompt).items() if key in wanted}
        return Request(f"{self.server}/tokenize", body | {"add_generation_prompt": True})

    def tokens(self, reply: Reply) -> list[Piece]:
        told = first_choice(reply).get("prompt_logprobs")
        if not isinstance(told, Sequence):
            raise ModelError("Expected prompt_logprobs, got none.")
        found: list[Piece] = []
        for entry in cast("Sequence[Any]", told):
            if entry is not None and not isinstance(entry, Mapping):
                raise ModelError(f"Expected prompt_logprobs by token, got {entry!r}.")
            # The first token has nothing before it, and none.
            key, own = next(iter(cast("Mapping[str, Any]", entry).items())) if entry else ("", {})
            token = int(key) if str(key).isdecimal() else None
            found.append(Piece(str(own.get("decoded_token") or ""), read_logprob(own.get("logprob")), id=token))
        return found


@dataclass(frozen=True)
class Forced(Scoring):
    """llama-server's own `/completion`: each token of the output is forced, and its probability without that told.

    The prompt goes as a text or as ids, what was written before as ids, so that what is scored is the output itself.
    """

    name: ClassVar[str] = "forced"
    server: str

    def rendered(self, prompts: Sequence[Put], ask: Ask) -> list[Put]:
        if self.dialect.path != CHAT:
            return list(prompts)
        return [_field(reply, "prompt", str) for reply in ask(list(map(self._template, prompts)))]

    def _template(self, prompt: Put) -> Request:
        wanted = ("messages", "tools", "chat_template_kwargs")
        body = {key: given for key, given in self.dialect.body(prompt).items() if key in wanted}
        return Request(f"{self.server}/apply-template", body)

    def requests(self, prompt: Put, output: Sequence[Piece]) -> list[Request]:
        text_dialect = replace(self.dialect, path=COMPLETIONS)
        if self.dialect.path == CHAT and not isinstance(prompt, (str, tuple)):
            # What the template makes of it is not known before it was asked, only how many questions follow.
            return [self._template(prompt), *replace(self, dialect=text_dialect).requests("", output)]
        text, ids = text_dialect.body(prompt)["prompt"], [piece.id for piece in output]
        if None in ids:
            raise ModelError("Expected an output whose ids are known, to force one token after the other.")
        asked = {"n_predict": 1, "n_probs": 1, "temperature": 0, "repeat_penalty": 1.0, "cache_prompt": True}
        read = text if isinstance(text, list) else [text]
        return [
            Request(
                f"{self.server}/completion",
                asked | {"prompt": [*read, *ids[:place]] if place else text, "logit_bias": [[token, FORCE]]},
            )
            for place, token in enumerate(ids)
        ]

    def read(self, replies: Sequence[Reply], output: Sequence[Piece]) -> list[float]:
        found: list[float] = []
        for reply, piece in zip(replies, output, strict=True):
            token, logprob = _forced(reply)
            if token != piece.id or logprob is None:
                raise ModelError(f"Expected the log-probability of token {piece.id}, got {logprob} of {token}.")
            found.append(logprob)
        return found

    def lacking(self, reply: Reply, output: Sequence[Piece]) -> str | None:
        try:
            return "a log-probability" if _forced(reply)[1] is None else None
        except ModelError as error:
            return str(error)

    def pieces(self, prompt: Put, output: str, ask: Ask) -> tuple[Piece, ...]:
        (text,) = self.rendered([prompt], ask)

        def tokens(content: str, *, adds: bool) -> list[tuple[int, bytes]]:
            wanted = {"content": content, "add_special": adds, "with_pieces": True}
            (reply,) = ask([Request(f"{self.server}/tokenize", wanted)])
            return [_token(token) for token in _field(reply, "tokens", list)]

        found: list[tuple[int, bytes]] = []
        if isinstance(text, str):
            before, whole = tokens(text, adds=True), tokens(text + output, adds=True)
            found = whole[len(before) :] if whole[: len(before)] == before else []
        found = found or tokens(output, adds=False)
        texts = texts_of([piece for _, piece in found])
        if "".join(texts) != output:
            raise ModelError(f"Expected an output that its tokenizer can write after the prompt, got {output!r}.")
        return tuple(Piece(said, None, id=token) for (token, _), said in zip(found, texts, strict=True))


def _forced(reply: Reply) -> tuple[Any, float | None]:
    """The token that was written, and its log-probability."""
    told = reply.get("completion_probabilities")
    entry: Any = told[0] if isinstance(told, list) and told else None
    known = cast("Mapping[str, Any]", entry) if isinstance(entry, Mapping) else {}
    return known.get("id"), read_logprob(known.get("logprob"))


def _field(reply: Reply, name: str, kind: type) -> Any:
    """What a reply says under a name; `ModelError` where that is of another kind."""
    found = reply.get(name)
    if not isinstance(found, kind):
        raise ModelError(f"Expected a reply with {name}, got one with {', '.join(sorted(reply)) or 'nothing'}.")
    return found


def _token(entry: Mapping[str, Any]) -> tuple[int, bytes]:
    """A token's id and its bytes, which come as text where they are one."""
    piece = entry["piece"]
    return int(entry["id"]), piece.encode() if isinstance(piece, str) else bytes(piece)


def server_of(base_url: str) -> str:
    """The server's own address, without the `/v1` that OpenAI's paths stand behind."""
    whole = urlsplit(base_url)
    return urlunsplit((whole.scheme, whole.netloc, whole.path.rstrip("/").removesuffix("/v1"), "", ""))


def ending(pieces: Sequence[Piece], output: str) -> Sequence[Piece]:
    """The last tokens of a text, which make the output; `ModelError` where none do.

    A token that begins before the output and ends within it counts as the output's.
    """
    text, first = "", len(pieces)
    while first > 0 and len(text) < len(output):
        first -= 1
        text = pieces[first].text + text
    while 0 < first < len(pieces) and not pieces[first - 1].text:  # the beginning of a character that is split
        first -= 1
    if not text.endswith(output):
        raise ModelError(f"Expected a text that ends with {output!r}, the tokens that came back end with {text!r}.")
    own = list(pieces[first:])
    if text != output:
        begun = own[0].text[len(text) - len(output) :]
        own[0] = replace(own[0], text=begun)
    return own


def spread(pieces: Sequence[Piece], output: Sequence[Piece]) -> list[float]:
    """The log-probabilities of the output's tokens, out of those of a text that ends with it.

    Where the text has other tokens than the output, each counts for the output's token in which it begins. Raises
    `ModelError` where the text does not end with the output, and where one of its tokens has no log-probability.
    """
    own = ending(pieces, text_of(output))
    if [piece.text for piece in own] == [piece.text for piece in output]:
        return [_told(piece) for piece in own]
    found, place, reached, end = [0.0] * len(output), 0, 0, len(output[0].text)
    for piece in own:
        while place + 1 < len(output) and end <= reached:
            place += 1
            end += len(output[place].text)
        found[place] += _told(piece)
        reached += len(piece.text)
    return found


def text_of(output: Sequence[Piece]) -> str:
    """What the tokens say together."""
    return "".join(piece.text for piece in output)


def _told(piece: Piece) -> float:
    if piece.logprob is None:
        raise ModelError(f"Expected the log-probability of {piece.text!r}, the endpoint tells none.")
    return piece.logprob


def _followed(prompt: Any, output: Sequence[Piece]) -> Any:
    """A prompt with the output behind it: texts as one text, ids as ids."""
    if isinstance(prompt, str):
        return prompt + text_of(output)
    ids = [piece.id for piece in output]
    if None in ids:
        raise ModelError("Expected an output whose ids are known, behind a prompt of ids.")
    return [*prompt, *ids]
