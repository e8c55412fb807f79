"""Failures: what can go wrong with one call, whether it may be repeated, and how that is told."""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any, cast

from attribution.errors import ApiError
from attribution.models.api.request import Request
from attribution.models.api.secret import Secret

_AGAIN = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same call may well succeed: RFC 9110, 6585 and 8470."""
_NEVER = frozenset({501, 505})
"""Statuses from 500 on of a server that will never do it: RFC 9110."""
_SPENT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""What comes with 429 and no waiting helps against."""
LONGEST_WAIT = 600.0
"""Seconds; an endpoint that asks to wait longer is asked another day."""
_LONGEST_TEXT = 300

_ADVICE = {
    400: "The endpoint does not take the request as it is: change it.",
    401: "Give a key that this endpoint knows, as api_key or in its environment variable.",
    402: "The account has no money left: top it up.",
    403: "Use a key that may use this model.",
    404: "Correct base_url or the model's name; GET /models lists those that there are.",
    405: "Correct base_url: nothing there takes such a request.",
    413: "Shorten the request.",
    422: "The endpoint does not take the request as it is: change it.",
    429: "Ask later, or lower requests_per_minute, tokens_per_minute or max_concurrency.",
}
_LATER = "Ask later, or allow more retries or a longer timeout."


class CallError(Exception):
    """One call failed. It never leaves this room: what becomes of it in the end is an `ApiError`.

    `name` is what it is counted under, `reason` tells it; `again` whether the call may be repeated, and `wait` how many
    seconds the endpoint wants to be left alone before; `billed` whether the call may have cost something; `attempts`
    how many calls were made for the request until then.
    """

    def __init__(
        self,
        name: str,
        reason: str,
        *,
        advice: str = _LATER,
        status: int | None = None,
        again: bool = True,
        wait: float | None = None,
        billed: bool = False,
    ) -> None:
        super().__init__(reason)
        self.name, self.reason, self.advice, self.status = name, reason, advice, status
        self.again, self.wait, self.billed = again, wait, billed
        self.attempts = 1

    def told(self, request: Request) -> ApiError:
        """The error that a person reads."""
        often = f" after {self.attempts} calls" if self.attempts > 1 else ""
        message = f"Expected an answer to {request.what}, got {self.reason}{often}. {self.advice}"
        return ApiError(message, self.status, self.name)


def refused(status: int, headers: Mapping[str, str], content: bytes, secret: Secret) -> CallError:
    """What a status that is no success means."""
    body = _parsed(content)
    message = clean(_message(body) if body is not None else content.decode(errors="replace"), secret)
    wait = retry_after(headers)
    again = (status in _AGAIN or (status >= 500 and status not in _NEVER)) and headers.get("x-should-retry") != "false"
    advice = _ADVICE.get(status, _LATER if again else _ADVICE[400])
    if _code(body) in _SPENT:
        again, advice = False, _ADVICE[402]
    elif again and wait is not None and wait > LONGEST_WAIT:
        again, advice = False, f"The endpoint wants to be left alone for {wait:.0f} seconds: ask then."
    return CallError(
        str(status), f"status {status}{f' ({message})' if message else ''}",
        advice=advice, status=status, again=again, wait=wait,
    )  # fmt: skip


def parsed(content: bytes, *, is_list_fine: bool = False) -> dict[str, Any]:
    """The reply that came with a success; `CallError` for a page, for what is no JSON, and for no object.

    A list is given as `data`, as OpenAI lists its models, where that `is_list_fine`: Together gives the list alone.
    """
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        start = content[:200].lstrip().lower()
        page = start.startswith((b"<!doctype", b"<html", b"<?xml"))
        reason = "an HTML page in place of JSON" if page else "text that is no JSON" if content else "an empty reply"
        failed = CallError("html" if page else "json", reason, advice=_ADVICE[405] if page else _LATER, billed=not page)
    else:
        if isinstance(reply, dict):
            return cast("dict[str, Any]", reply)
        if is_list_fine and isinstance(reply, list):
            return {"data": reply}
        failed = CallError("json", f"JSON that is no object but {type(reply).__name__}", billed=True)
    raise failed


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an endpoint wants to be left alone for; None where it does not say so, or says nonsense.

    >>> retry_after({"retry-after-ms": "250"})
    0.25
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())


def clean(text: str, secret: Secret) -> str:
    """What a server said, on one short line, without the key and without characters that move a terminal's cursor."""
    line = " ".join("".join(each if each.isprintable() else " " for each in secret.hide(text)).split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1] + "…"


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _message(body: Any) -> str:
    """What the server says is wrong, where the many kinds of servers say it."""
    if isinstance(body, dict):
        known = cast("dict[str, Any]", body)
        for name in ("error", "message", "detail"):
            if known.get(name):
                return _message(known[name])
    return body if isinstance(body, str) else json.dumps(body)


def _code(body: Any) -> Any:
    error = cast("dict[str, Any]", body).get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None
    known = cast("dict[str, Any]", error)
    codes = [known.get(name) for name in ("code", "type")]
    return next((each for each in codes if isinstance(each, str) and each in _SPENT), None)
