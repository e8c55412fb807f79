"""Dialect: how an endpoint is asked to write on from a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attribution.errors import CapabilityError
from attribution.models.api.request import Request
from attribution.prompts.chat import Chat
from attribution.prompts.rendered import Rendered
from attribution.prompts.writing import Written

CHAT, COMPLETIONS = "/chat/completions", "/completions"

Put = Written | tuple[int, ...]
"""What is put to an endpoint: a prompt as a person writes it, or the ids of its tokens."""

_NOTHING = [{"role": "user", "content": ""}]
"""Messages of which nothing is left."""


@dataclass(frozen=True)
class Dialect:
    """How a model is asked at one of an endpoint's paths.

    `/completions` goes on with a text, or with ids; `/chat/completions` answers messages, and a text as a user's.
    `length` is the name of the bound on what is written; it writes what is likeliest where it `takes_temperature`;
    `more` stands in every request besides.
    """

    model: str
    path: str = COMPLETIONS
    length: str = "max_tokens"
    takes_temperature: bool = True
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def body(self, prompt: Put) -> dict[str, Any]:
        """What says the prompt, and of which model it is asked; `CapabilityError` where this path takes no such one."""
        asked: dict[str, Any] = {"model": self.model} | ({"temperature": 0} if self.takes_temperature else {})
        asked |= self.more
        is_ids = isinstance(prompt, tuple) and all(isinstance(each, int) for each in prompt)
        if self.path == COMPLETIONS:
            if isinstance(prompt, (str, Rendered)) or is_ids:
                return asked | {"prompt": prompt.text if isinstance(prompt, Rendered) else _listed(prompt)}
            raise CapabilityError(f"{self.model} goes on with texts here, and takes no messages. Pass a text.")
        if isinstance(prompt, Rendered) or (is_ids and prompt):
            what = "a Rendered prompt is a text" if isinstance(prompt, Rendered) else "ids are none"
            raise CapabilityError(f"{self.model} takes messages only, and {what}. Pass messages.")
        if isinstance(prompt, str):
            return asked | {"messages": [{"role": "user", "content": prompt}]}
        chat = prompt if isinstance(prompt, Chat) else Chat(prompt) if prompt else None  # pyright: ignore[reportArgumentType]
        messages = _NOTHING if chat is None else [dict(message) for message in chat.messages]
        tools = {} if chat is None or chat.tools is None else {"tools": list(chat.tools)}
        options = {} if chat is None or not chat.options else {"chat_template_kwargs": dict(chat.options)}
        return asked | {"messages": messages} | tools | options

    def write(self, prompt: Put, max_new_tokens: int, likeliest: int = 0, sample: int = 0) -> Request:
        """To write at most so many tokens, and to tell the `likeliest` in the place of each.

        After an empty text it goes on from a space: vLLM refuses a text with nothing in it.
        """
        asked = self.body(" " if prompt == "" and self.path == COMPLETIONS else prompt) | {self.length: max_new_tokens}
        if likeliest and self.path == CHAT:
            asked |= {"logprobs": True, "top_logprobs": likeliest}
        elif likeliest:
            asked |= {"logprobs": likeliest}
        return Request(self.path, asked, sample)


def _listed(prompt: Any) -> Any:
    return list(prompt) if isinstance(prompt, tuple) else prompt
