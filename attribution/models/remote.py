"""RemoteModel: a model behind an OpenAI-compatible endpoint, asked for what it tells."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard, cast
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float

from attribution.checks import check_count
from attribution.errors import BudgetError, CapabilityError, InputError, ModelError
from attribution.models.api.cache import Cache
from attribution.models.api.client import Client
from attribution.models.api.limits import Limits
from attribution.models.api.request import Request
from attribution.models.codec import Codec
from attribution.models.dialects.completion import Completion, Piece, read_completion
from attribution.models.dialects.dialect import Dialect, Put
from attribution.models.dialects.probing import PATHS, QUESTION, Capabilities, Probe, scoring_of
from attribution.models.dialects.scoring import Scoring
from attribution.prompts.rendered import Rendered

PROVIDERS: Mapping[str, tuple[str, str]] = {"openai": ("https://api.openai.com/v1", "OPENAI_API_KEY")}
"""What stands before a model's name, as in "openai:gpt-5-mini": the endpoint, and where its key is looked for."""

_BELIEVED = 86_400.0
"""Seconds for which it is believed what an endpoint told of itself: servers are updated."""


class RemoteModel:
    """A model that an OpenAI-compatible endpoint serves, at `base_url` (`http://localhost:8080/v1`), as `model`.

    The `api_key` is sent to that endpoint and nowhere else; local servers need none. With a `tokenizer`, that of the
    model, or the name or folder of one, prompts are sent as ids, so that what is deleted is deleted token for token, as
    on a model that runs here; without, units are made of characters, and texts and messages are sent as they are.

    `limits` say how fast and how much is asked, and what it may cost, of all that this object is asked together.
    Replies are kept in `cache`, a file's path, by default one in the user's folder for caches, so that nothing is paid
    for twice; False keeps none. Where an endpoint tells texts only, the same is asked `repeats` times, to tell what a
    change does from chance. `more` stands in every request besides, for instance `{"seed": 1}`. `progress` shows on
    standard error how many calls are left.

    What an endpoint tells is found out by a few short questions, whose outcome is kept for a day (`capabilities`).

    Raises `InputError` for an URL, a name or limits that are none, `ModelLoadError` for a tokenizer that cannot be
    loaded, `MissingExtraError` where the packages are missing that the extra `api` brings.

    >>> import attribution as at
    >>> at.RemoteModel(base_url="http://localhost:8080/v1", model="demo", cache=False)
    RemoteModel('http://localhost:8080/v1', 'demo')
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        tokenizer: Any = None,
        *,
        limits: Limits | None = None,
        cache: bool | str | os.PathLike[str] = True,
        repeats: int = 5,
        more: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        if not isinstance(model, str) or not model:
            raise InputError(f"Expected the model's name at the endpoint, got {model!r}.")
        if limits is not None and not isinstance(limits, Limits):
            raise InputError(
                f"Expected limits as Limits(...), got {type(limits).__name__}. Type Limits(max_calls=...)."
            )
        if more is not None and not isinstance(more, Mapping):
            raise InputError(f'Expected more as a dict such as {{"seed": 1}}, got {more!r}.')
        if api_key is not None and not isinstance(api_key, str):
            raise InputError(f"Expected api_key as a text, got {type(api_key).__name__}.")
        kept = (Cache() if cache else None) if isinstance(cache, bool) else Cache(cache)
        self.name = model
        self.repeats = check_count("repeats", repeats)
        self.codec = None if tokenizer is None else _codec(tokenizer)
        self.client = Client(base_url, api_key, limits, kept, progress=progress)
        self._more = dict(more or {})
        self._found: dict[str, Capabilities] = {}

    def __repr__(self) -> str:
        return f"RemoteModel({_bare(self.client.base_url)!r}, {self.name!r})"

    def describe(self) -> dict[str, Any]:
        """Which model it is, as results keep it."""
        server = next((found.server for found in self._found.values() if found.server), "")
        endpoint = urlsplit(self.client.base_url).netloc
        return {"name": self.name, "architecture": server, "dtype": "", "revision": None, "endpoint": endpoint}

    def capabilities(self, prompt: Put = "") -> Capabilities:
        """What the endpoint tells of the model after such a prompt; asked once, and again after a day.

        Raises `CapabilityError` where it takes no such prompt, `ApiError` where it does not answer, `ModelError` where
        the tokenizer that was given is another than the model's.
        """
        kind = self._kind(prompt)
        known = self.known_capabilities(prompt)
        if known is not None:
            return known
        question: Put = QUESTION
        if kind == "ids" and self.codec is not None:
            question = self.codec.encode(QUESTION).ids
        # Replies are kept for good: those of another day are not taken for what the endpoint tells now.
        day = int(time.time() // _BELIEVED)

        def ask(requests: Sequence[Request]) -> list[dict[str, Any]]:
            return self.replies([replace(request, sample=2 * day + request.sample) for request in requests])

        probe = Probe(self.client.base_url, self.name, self._more, ask)
        with self.client:
            found = probe.hear(PATHS[kind], question)
            # With and without BOS, which an endpoint may put before a text where the tokenizer does not.
            readings = (self.codec.encode(QUESTION).ids, self.codec.ids_of(QUESTION)) if self.codec else ()
            if readings and not any(probe.reads_alike(found, QUESTION, ids) for ids in readings):
                raise ModelError(
                    f"Expected the tokenizer of {self.name}, got one whose ids the endpoint reads as another text. "
                    "Pass the model's own, or leave tokenizer out."
                )
        self._found[kind] = found
        if self.client.cache is not None:
            self.client.cache.add(self._place(kind), {"capabilities": found.to_dict(), "asked": time.time()})
        return found

    def known_capabilities(self, prompt: Put = "") -> Capabilities | None:
        """The same where it was asked before; else None, and nothing is asked."""
        kind = self._kind(prompt)
        if kind not in self._found and self.client.cache is not None:
            place = self._place(kind)
            kept = self.client.cache.find([place]).get(place)
            if kept is not None and 0 <= time.time() - kept["asked"] < _BELIEVED:
                self._found[kind] = Capabilities.read(kept["capabilities"])
        return self._found.get(kind)

    def dialect(self, prompt: Put) -> Dialect:
        """How the endpoint is asked for what comes after such a prompt."""
        return self.capabilities(prompt).dialect(self.name, self._more)

    def scoring(self, prompt: Put) -> Scoring | None:
        """How a given output is scored after such a prompt; None where the endpoint does not."""
        return scoring_of(self.capabilities(prompt).scoring, self.dialect(prompt), self.client.base_url)

    def writing(self, prompts: Sequence[Put], max_new_tokens: int, samples: Sequence[int] = (0,)) -> list[Request]:
        """What is to be asked for what the model writes after each prompt, once for each of the samples."""
        check_count("max_new_tokens", max_new_tokens)
        return [
            self.dialect(prompt).write(prompt, max_new_tokens, self.capabilities(prompt).likeliest, sample)
            for prompt in prompts
            for sample in samples
        ]

    def written(self, prompt: Put, max_new_tokens: int, *, wants_pieces: bool = True) -> Completion:
        """What the model writes after a prompt; `BudgetError` where a budget ended before."""
        found = self.write([prompt], max_new_tokens, wants_pieces=wants_pieces)[0]
        if not found:
            raise BudgetError(
                f"The budget ended ({self.client.exhausted}) before {self.name} wrote anything. Allow more."
            )
        return found[0]

    def write(
        self, prompts: Sequence[Put], max_new_tokens: int, samples: Sequence[int] = (0,), *, wants_pieces: bool = True
    ) -> list[list[Completion]]:
        """What the model writes after each prompt, once for each of the samples; fewer where a budget ended.

        Where the endpoint tells tokens, texts without them are asked for again, unless nobody wants them.
        """
        wants_pieces = wants_pieces and bool(prompts) and self.capabilities(prompts[0]).road != "texts"
        requests = self.writing(prompts, max_new_tokens, samples)
        replies = self.client.ask_sync(requests, check=_unread if wants_pieces else _unwritten)
        found = [None if reply is None else read_completion(reply) for reply in replies]
        return [
            [each for each in found[start : start + len(samples)] if each is not None]
            for start in range(0, len(found), len(samples))
        ]

    def read(self, prompt: Put, output: str) -> tuple[Piece, ...]:
        """The tokens of an output that is given, with their ids where prompts are ids or the scoring needs them.

        Raises `CapabilityError` where the endpoint scores no given output.
        """
        scoring = self.scoring(prompt)
        if scoring is None:
            raise CapabilityError(
                f"{self.name} does not say how likely an output is that it did not write. Leave output out."
            )
        return self.numbered(prompt, scoring.pieces(prompt, output, self.replies) if self.codec is None else output)

    def numbered(self, prompt: Put, output: str | tuple[Piece, ...]) -> tuple[Piece, ...]:
        """Tokens with their ids, which the tokenizer has where the endpoint does not tell them."""
        if self.codec is None or not isinstance(prompt, tuple):
            return cast("tuple[Piece, ...]", output)
        if not isinstance(output, str) and all(piece.id is not None for piece in output):
            return output
        text = output if isinstance(output, str) else "".join(piece.text for piece in output)
        ids = cast("tuple[int, ...]", prompt)
        found = self.codec.encode_output(self.codec.decode(ids), ids, text, add_special=False)
        texts = self.codec.output_texts(ids, found)
        told = () if isinstance(output, str) else output
        if [piece.text for piece in told] == texts:
            return tuple(replace(piece, id=token) for piece, token in zip(told, found, strict=True))
        return tuple(Piece(said, None, (), token) for said, token in zip(texts, found, strict=True))

    def logprobs(self, prompts: Sequence[Put], output: Sequence[Piece]) -> Float[np.ndarray, "prompt output"]:
        """The log-probability of every token of an output after each prompt, in nats; NaN where a budget ended."""
        found = np.full((len(prompts), len(output)), np.nan)
        scoring = self.scoring(prompts[0]) if prompts else None
        if scoring is None:
            return found
        try:
            rendered = scoring.rendered(prompts, self.replies)
        except BudgetError:
            return found
        by_prompt = [scoring.requests(prompt, output) for prompt in rendered]
        replies = self.client.ask_sync(
            [request for each in by_prompt for request in each], check=lambda reply: scoring.lacking(reply, output)
        )
        reached = 0
        for row, requests in enumerate(by_prompt):
            own = replies[reached : reached + len(requests)]
            reached += len(requests)
            known = [reply for reply in own if reply is not None]
            if len(known) == len(requests):
                found[row] = scoring.read(known, output)
        return found

    def replies(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        """The replies to questions without which nothing can be said; `BudgetError` where a budget ended before."""
        found = self.client.ask_sync(requests)
        known = [reply for reply in found if reply is not None]
        if len(known) < len(found):
            raise BudgetError(
                f"The budget ended ({self.client.exhausted}) before anything was known of {self.name}. Allow more."
            )
        return known

    def _kind(self, prompt: Put) -> str:
        if self.codec is not None:
            return "ids"
        if isinstance(prompt, Rendered):
            raise InputError(
                "Expected a text or messages, got a Rendered prompt, which an endpoint would add its own tokens to. "
                "Pass tokenizer=... to RemoteModel, and it is sent as ids."
            )
        return "text" if isinstance(prompt, str) else "chat"

    def _place(self, kind: str) -> str:
        """Where in the cache what was found out is kept."""
        what = {"model": self.name, "kind": kind, "more": json.dumps(self._more, sort_keys=True, default=str)}
        return Request("/capabilities", what).digest(self.client.base_url)


def is_remote(source: object) -> TypeGuard[RemoteModel | str]:
    """Whether this is a model behind an endpoint, or the name of one."""
    return isinstance(source, RemoteModel) or (isinstance(source, str) and source.partition(":")[0] in PROVIDERS)


def load(source: RemoteModel | str) -> RemoteModel:
    """The model itself, or the one that a name such as "openai:gpt-5-mini" means; its key is in the environment."""
    if isinstance(source, RemoteModel):
        return source
    provider, _, model = source.partition(":")
    return RemoteModel(PROVIDERS[provider][0], model, key_of(source))


def key_of(source: str) -> str:
    """The key for a name such as "openai:gpt-5-mini", out of the environment; `InputError` without one."""
    variable = PROVIDERS[source.partition(":")[0]][1]
    key = os.environ.get(variable)
    if not key:
        raise InputError(f"Expected a key for {source!r} in {variable}, there is none. Type: export {variable}=...")
    return key


def _unwritten(reply: Mapping[str, Any]) -> str | None:
    """What is missing from what was written; None where nothing is."""
    try:
        read_completion(reply)
    except ModelError as error:
        return str(error)
    return None


def _unread(reply: Mapping[str, Any]) -> str | None:
    """The same where its tokens are needed too; nothing written has none."""
    if lacking := _unwritten(reply):
        return lacking
    completion = read_completion(reply)
    return completion.fault or (None if completion.pieces or not completion.text else "no log-probabilities") or None


def _codec(tokenizer: Any) -> Codec:
    if isinstance(tokenizer, (str, Path)):
        from attribution.models.local import load_tokenizer

        tokenizer = load_tokenizer(tokenizer)
    if not callable(tokenizer):
        raise InputError(f"Expected a tokenizer, or the name or folder of one, got {type(tokenizer).__name__}.")
    return Codec(tokenizer, lambda: len(cast(Any, tokenizer)))


def _bare(base_url: str) -> str:
    """The URL without its query, which may hold anything."""
    return urlsplit(base_url)._replace(query="", fragment="").geturl()
