"""A server that speaks as vLLM's does, for a model that runs here: same routes, same replies, same refusals.

It has `/v1/models`, `/v1/completions`, `/v1/chat/completions`, `/tokenize`, `/detokenize`, `/version` and `/health`,
without streams, tools or pictures. What vLLM knows and this does not is refused with 501, never passed over. Fields
that vLLM does not know are passed over, as vLLM does.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from attribution.models.local import LocalModel
from tests.stand_in_engine import Engine, Entries, Entry, Options, Written

LOWEST = -9999.0
"""What vLLM writes where a log-probability is minus infinity."""

COMPLETION_TOKENS = 16  # that a completion has where nobody says how many

# What changes the answer, and is not done here, with the values that change nothing.
_UNDONE: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "bad_words": ([],),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "guided_choice": (),
    "logit_bias": ({},),
    "logprob_token_ids": (),
    "min_p": (0,),
    "min_tokens": (0,),
    "presence_penalty": (0,),
    "prompt_embeds": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "stream": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "tools": (),
    "top_k": (0, -1),
    "top_p": (1,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}


class RefusalError(Exception):
    """A request that is answered with an error."""

    def __init__(self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None):
        super().__init__(message)
        self.status = status
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True)
class Call:
    """A request that the server got."""

    path: str
    body: Any


class StandIn:
    """The server's application, and what it was asked.

    `name` is the model's, the longest prompt and output together are of `max_model_len` tokens, nobody gets more than
    `max_logprobs` alternatives (-1 for as many as there are), and with an `api_key` requests have to bear it.
    """

    def __init__(
        self,
        model: LocalModel,
        *,
        template: str,
        name: str = "demo",
        max_model_len: int = 2048,
        max_logprobs: int = 20,
        api_key: str | None = None,
    ) -> None:
        self.model, self.template, self.name, self.api_key = model, template, name, api_key
        self.max_model_len = max_model_len
        self.max_logprobs = model.vocabulary_size if max_logprobs == -1 else max_logprobs
        self.calls: list[Call] = []
        self._engine = Engine(model)
        self._started = int(time.time())
        posts = {
            "/v1/completions": self._complete,
            "/v1/chat/completions": self._chat,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
        }
        self._posts = posts
        self.app = Starlette(
            routes=[
                Route("/health", lambda _request: Response()),
                Route("/version", lambda _request: JSONResponse({"version": "0.30.0"})),
                Route("/v1/models", self._models),
                *(Route(path, self._answering(answer), methods=["POST"]) for path, answer in posts.items()),
            ],
            exception_handlers={404: _not_found, 405: _not_allowed},
        )

    def answer(self, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Status and content of what is sent to a request, for servers that have this one's replies to send."""
        if self.api_key is not None and headers.get("authorization") != f"Bearer {self.api_key}":
            return 401, {"error": "Unauthorized"}
        if path == "/v1/models":
            return 200, self._listed_models()
        if path not in self._posts:
            return 404, RefusalError("Not Found", status=404, kind="Not Found").content
        try:
            return 200, self._posts[path](body)
        except RefusalError as refused:
            return refused.status, refused.content

    # Routes

    def _answering(self, answer: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            if (refusal := self._unauthorized(request)) is not None:
                return refusal
            try:
                body = await _read(request)
                self.calls.append(Call(request.url.path, body))
                return JSONResponse(await run_in_threadpool(answer, body))
            except RefusalError as refused:
                return JSONResponse(refused.content, refused.status)

        return endpoint

    def _unauthorized(self, request: Request) -> Response | None:
        if self.api_key is None or not request.url.path.startswith("/v1"):
            return None
        if request.headers.get("authorization") == f"Bearer {self.api_key}":
            return None
        return JSONResponse({"error": "Unauthorized"}, 401)

    def _models(self, request: Request) -> Response:
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        return JSONResponse(self._listed_models())

    def _listed_models(self) -> dict[str, Any]:
        permission = {
            "id": f"modelperm-{_random_id()}",
            "object": "model_permission",
            "created": self._started,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        card = {
            "id": self.name,
            "object": "model",
            "created": self._started,
            "owned_by": "vllm",
            "root": self.name,
            "parent": None,
            "max_model_len": self.max_model_len,
            "permission": [permission],
        }
        return {"object": "list", "data": [card]}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        _check_logprobs(body, "logprobs")
        if not body.get("prompt"):
            raise _unusable("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
        self._check_model(body)
        echo, top = bool(body.get("echo")), body.get("logprobs")
        asked = body.get("max_tokens")
        max_tokens = COMPLETION_TOKENS if asked is None else asked
        only_prompt = echo and max_tokens == 0
        prompt_top = body.get("prompt_logprobs")
        options = self._options(body, top, top if prompt_top is None and echo else prompt_top)
        choices: list[dict[str, Any]] = []
        read = wrote = 0
        for prompt, ids in self._prompts(body):
            # vLLM writes a token even where only the prompt is wanted.
            self._check_length(len(ids), max_tokens)
            for written in self._written(ids, replace(options, max_tokens=1 if only_prompt else max_tokens), body):
                shown, entries, text = list(written.ids), written.entries, written.text
                if echo:
                    entries = [*(written.prompt_entries or []), *([] if only_prompt else entries)]
                    shown = [*ids, *([] if only_prompt else shown)]
                    text = prompt + ("" if only_prompt else text)
                choices.append(
                    {
                        "index": len(choices),
                        "text": text,
                        "logprobs": None if top is None else self._listed(shown, entries, top, body),
                        "finish_reason": written.finish_reason,
                        "stop_reason": written.stop_reason,
                        "token_ids": list(written.ids) if body.get("return_token_ids") else None,
                        "prompt_logprobs": _prompt_logprobs(written),
                        "prompt_token_ids": list(ids) if body.get("return_token_ids") else None,
                        "routed_experts": None,
                    }
                )
                wrote += len(written.ids)
            read += len(ids)
        return {
            "id": f"cmpl-{_random_id()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": None,
            "usage": _usage(read, wrote),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        _check_logprobs(body, "top_logprobs")
        top = body.get("top_logprobs") or 0
        if top and not body.get("logprobs"):
            raise _unusable("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
        rendered = self._rendered(body)
        self._check_model(body)
        ids = self._ids_of(rendered, add_special=bool(body.get("add_special_tokens", False)))
        asked = body.get("max_completion_tokens", body.get("max_tokens"))
        max_tokens = self.max_model_len - len(ids) if asked is None else asked
        self._check_length(len(ids), max_tokens)
        options = self._options(body, top if body.get("logprobs") else None, body.get("prompt_logprobs"))
        choices: list[dict[str, Any]] = []
        prompt_logprobs: Any = None
        wrote = 0
        last = body["messages"][-1]
        # With `echo` the last message comes before the text, where both are the assistant's.
        adds = body.get("add_generation_prompt", True)
        role = "assistant" if adds else last["role"]
        spoken = _content(last) if body.get("echo") and last["role"] == role else ""
        for written in self._written(ids, replace(options, max_tokens=max_tokens), body):
            prompt_logprobs = _prompt_logprobs(written)
            wrote += len(written.ids)
            choices.append(
                {
                    "index": len(choices),
                    "message": {
                        "role": role,
                        "content": spoken + written.text,
                        "refusal": None,
                        "annotations": None,
                        "audio": None,
                        "function_call": None,
                        "reasoning": None,
                    },
                    "logprobs": {"content": self._spoken(written, top, body)} if body.get("logprobs") else None,
                    "finish_reason": written.finish_reason,
                    "stop_reason": written.stop_reason,
                    "token_ids": list(written.ids) if body.get("return_token_ids") else None,
                    "routed_experts": None,
                }
            )
        return {
            "id": f"chatcmpl-{_random_id()}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": None,
            "usage": _usage(len(ids), wrote),
            "prompt_logprobs": prompt_logprobs,
            "prompt_token_ids": list(ids) if body.get("return_token_ids") else None,
            "prompt_text": rendered if body.get("return_prompt_text") else None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        is_chat = "messages" in body
        text = self._rendered(body) if is_chat else body.get("prompt")
        if not isinstance(text, str):
            raise _missing("prompt")
        self._check_model(body)
        ids = self._ids_of(text, add_special=bool(body.get("add_special_tokens", not is_chat)))
        strings = self.model.tokenizer.convert_ids_to_tokens(list(ids)) if body.get("return_token_strs") else None
        return {"count": len(ids), "max_model_len": self.max_model_len, "tokens": list(ids), "token_strs": strings}

    def _detokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(body.get("tokens"), list):
            raise _missing("tokens")
        self._check_model(body)
        return {"prompt": self.model.codec.decode(self._known(body["tokens"]))}

    # What was asked

    def _check_model(self, body: Mapping[str, Any]) -> None:
        name = body.get("model")
        if name is not None and name != self.name:
            raise RefusalError(f"The model `{name}` does not exist.", status=404, kind="NotFoundError", param="model")

    def _check_length(self, prompt: int, output: int) -> None:
        if prompt + output > self.max_model_len:
            message = (
                f"This model's maximum context length is {self.max_model_len} tokens. However, you requested {output} "
                f"output tokens and your prompt contains {prompt} input tokens, for a total of {prompt + output} "
                "tokens. Please reduce the length of the input prompt or the number of requested output tokens."
            )
            raise _unusable(message, "input_tokens", prompt)

    def _options(self, body: Mapping[str, Any], top: int | None, prompt_top: int | None) -> Options:
        """How to go on; the number of tokens is still to be said."""
        for name, harmless in _UNDONE.items():
            value = body.get(name)
            if value is not None and value not in harmless:
                raise RefusalError(f"This stand-in has no {name}.", status=501, kind="NotImplementedError", param=name)
        for what, count in (("sample", top), ("prompt", prompt_top)):
            wanted = self.model.vocabulary_size if count == -1 else count or 0
            if wanted > self.max_logprobs:
                message = (
                    f"Requested {what} logprobs of {wanted}, which is greater than max allowed: {self.max_logprobs}"
                )
                raise _unusable(message, "logprobs" if what == "sample" else "prompt_logprobs", wanted)
        temperature = 1.0 if body.get("temperature") is None else float(body["temperature"])
        if temperature < 0:
            raise _unusable(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
        stop = body.get("stop") or []
        return Options(
            max_tokens=0,
            temperature=temperature,
            seed=body.get("seed"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            stop_ids=frozenset(body.get("stop_token_ids") or []),
            ignore_eos=bool(body.get("ignore_eos")),
            includes_stop=bool(body.get("include_stop_str_in_output")),
            top=top,
            prompt_top=prompt_top,
        )

    def _prompts(self, body: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
        """Text and ids of every prompt: it may be a text, ids, or a list of either."""
        prompt = body["prompt"]
        if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int)):
            prompt = [prompt]
        if not isinstance(prompt, list):
            raise _missing("prompt")
        found: list[tuple[str, tuple[int, ...]]] = []
        for each in prompt:
            if isinstance(each, str):
                add = bool(body.get("add_special_tokens", True))
                found.append((each, self._ids_of(each, add_special=add)))
            else:
                ids = self._known(each)
                found.append((self.model.codec.decode(ids), ids))
        return found

    def _ids_of(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        """A text's ids, with a BOS more where the text brings one itself."""
        return tuple(self.model.tokenizer(text, add_special_tokens=add_special)["input_ids"])

    def _known(self, ids: list[int]) -> tuple[int, ...]:
        unknown = next((each for each in ids if not 0 <= each < self.model.vocabulary_size), None)
        if unknown is not None:
            raise _unusable(f"Token id {unknown} is out of vocabulary", "prompt")
        return tuple(ids)

    def _rendered(self, body: Mapping[str, Any]) -> str:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _missing("messages")
        said = [{**message, "content": _content(message)} for message in messages]
        continues = bool(body.get("continue_final_message"))
        adds = body.get("add_generation_prompt", True)
        if continues and adds:
            raise _unusable(
                "Cannot set both `continue_final_message` and `add_generation_prompt` to True.", "add_generation_prompt"
            )
        return str(
            self.model.tokenizer.apply_chat_template(
                said,
                chat_template=body.get("chat_template") or self.template,
                tokenize=False,
                add_generation_prompt=adds,
                continue_final_message=continues,
                **(body.get("chat_template_kwargs") or {}),
            )
        )

    # What is answered

    def _written(self, ids: tuple[int, ...], options: Options, body: Mapping[str, Any]) -> list[Written]:
        if options.max_tokens < 1:
            message = f"max_tokens must be at least 1, got {options.max_tokens}."
            raise _unusable(message, "max_tokens", options.max_tokens)
        return [self._engine.write(ids, _reseeded(options, number)) for number in range(body.get("n") or 1)]

    def _listed(
        self, ids: list[int], entries: list[Entries | None] | list[Entries], top: int, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Log-probabilities as completions have them: parallel lists, one entry for each token."""
        offset, offsets, tokens = 0, [], []
        logprobs: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        for token, entry in zip(ids, entries, strict=True):
            if entry is None:
                tokens.append(f"token_id:{token}" if body.get("return_tokens_as_token_ids") else self._alone(token))
                logprobs.append(None)
                tops.append(None)
            else:
                tokens.append(_shown(token, entry[token], body))
                logprobs.append(max(entry[token].logprob, LOWEST))
                kept = list(entry.items())[: None if top == -1 else top + 1]
                # Tokens that say the same are one key, and the last of them stays.
                tops.append({_shown(other, found, body): max(found.logprob, LOWEST) for other, found in kept})
            offsets.append(offset)
            offset += len(tokens[-1])
        return {"text_offset": offsets, "token_logprobs": logprobs, "tokens": tokens, "top_logprobs": tops}

    def _alone(self, token: int) -> str:
        return self.model.codec.decode([token])

    def _spoken(self, written: Written, top: int, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Log-probabilities as chats have them: one object for each token."""

        def told(token: int, entry: Entry) -> dict[str, Any]:
            shown = _shown(token, entry, body)
            return {"token": shown, "logprob": max(entry.logprob, LOWEST), "bytes": list(shown.encode())}

        content: list[dict[str, Any]] = []
        for token, entries in zip(written.ids, written.entries, strict=True):
            # The token itself is the first of its alternatives, whatever its rank.
            kept = list(entries.items())[: None if top == -1 else top]
            content.append(
                {
                    **told(token, entries[token]),
                    # Where tokens are shown as ids, these bytes are still the text's.
                    "bytes": list(entries[token].text.encode()),
                    "top_logprobs": [told(other, entry) for other, entry in kept],
                }
            )
        return content


async def _read(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError as error:
        raise RefusalError(
            f"1 validation error:\n  {{'type': 'json_invalid', 'loc': 'body', 'msg': 'JSON decode error: {error}'}}",
            kind="Bad Request",
            param="body",
        ) from error
    if not isinstance(body, dict):
        raise _missing("model")
    return body


def _check_logprobs(body: Mapping[str, Any], name: str) -> None:
    for each in ("prompt_logprobs", name):
        value = body.get(each)
        if value is None:
            continue
        if not isinstance(value, int | float):
            raise _unusable(f"`{each}` must be an integer.", each, value)
        if value < 0 and value != -1:
            raise _unusable(f"`{each}` must be a positive value or -1.", each, value)


def _content(message: Mapping[str, Any]) -> str:
    """A message's text; it may come in parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""


def _reseeded(options: Options, number: int) -> Options:
    return options if options.seed is None else replace(options, seed=options.seed + number)


def _shown(token: int, entry: Entry, body: Mapping[str, Any]) -> str:
    return f"token_id:{token}" if body.get("return_tokens_as_token_ids") else entry.text


def _prompt_logprobs(written: Written) -> list[dict[str, Any] | None] | None:
    """For each token of the prompt what stands there and what else could, by id; null for the first."""
    if written.prompt_entries is None:
        return None
    return [
        None
        if entries is None
        else {
            str(token): {"logprob": max(entry.logprob, LOWEST), "rank": entry.rank, "decoded_token": entry.text}
            for token, entry in entries.items()
        }
        for entries in written.prompt_entries
    ]


def _usage(read: int, wrote: int) -> dict[str, Any]:
    return {
        "prompt_tokens": read,
        "total_tokens": read + wrote,
        "completion_tokens": wrote,
        "prompt_tokens_details": None,
    }


def _unusable(message: str, param: str, value: Any = None) -> RefusalError:
    """As vLLM refuses what has a value that it cannot work with."""
    said = f"parameter={param}" + ("" if value is None else f", value={value}")
    return RefusalError(f"{message} ({said})", param=param)


def _missing(field: str) -> RefusalError:
    message = f"1 validation error:\n  {{'type': 'missing', 'loc': 'body.{field}', 'msg': 'Field required'}}"
    return RefusalError(message, kind="Bad Request", param=f"body.{field}")


def _random_id() -> str:
    return uuid.uuid4().hex


async def _not_found(_request: Request, _error: Exception) -> Response:
    return JSONResponse(RefusalError("Not Found", status=404, kind="Not Found").content, 404)


async def _not_allowed(_request: Request, _error: Exception) -> Response:
    return JSONResponse(RefusalError("Method Not Allowed", status=405, kind="Method Not Allowed").content, 405)
