"""Request: one question to an endpoint, as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from attribution.errors import InputError


@dataclass(frozen=True)
class Request:
    """A question: its path under the endpoint, such as `/chat/completions`, or a whole URL; and its JSON body.

    Without a body it is a GET. `sample` tells questions apart that ask the same and want answers of their own: it is
    part of what a reply is remembered by, and is not sent. The body is copied: changing it later changes no request.

    Raises `InputError` for a path that is neither, and a body that JSON cannot hold.

    >>> Request("/models").method
    'GET'
    """

    path: str
    body: Mapping[str, Any] | None = None
    sample: int = 0
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        whole = urlsplit(self.path)
        if not self.path.startswith("/") and not (whole.scheme in ("http", "https") and whole.hostname):
            raise InputError(f"Expected a path such as /chat/completions or a whole URL, got {self.path!r}.")
        if whole.username is not None or whole.password is not None:
            raise InputError("Expected a URL without a password in it. Give the password as api_key.")
        if self.body is None:
            object.__setattr__(self, "_text", "")
            return
        try:
            body = json.loads(json.dumps(dict(self.body), allow_nan=False))
            text = _canonical(body)
            text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"Expected a body that JSON can hold, got one that it cannot: {error}") from error
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "_text", text)

    def __hash__(self) -> int:
        return hash((self.path, self._text, self.sample))

    @property
    def method(self) -> str:
        """`GET` without a body, `POST` with one."""
        return "GET" if self.body is None else "POST"

    @property
    def size(self) -> int:
        """Bytes of the body in UTF-8; at least as many as tokens of what it says."""
        return len(self._text.encode())

    @property
    def what(self) -> str:
        """The question in a few words, without what it says: method, path and model."""
        path = urlsplit(self.path).path
        model = None if self.body is None else self.body.get("model")
        return f"{self.method} {path}" + (f" of the model {model!r}" if isinstance(model, str) else "")

    def digest(self, endpoint: str) -> str:
        """The same for the same question to the same endpoint, in whichever order its body is written: 64 digits."""
        whole = _canonical([endpoint, self.method, self.path, self._text, self.sample])
        return sha256(whole.encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
