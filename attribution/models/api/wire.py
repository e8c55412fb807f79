"""Wire: one request through openai's client, and the bytes that come back."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from attribution.models.api.failures import CallError, clean, refused
from attribution.models.api.request import Request
from attribution.models.api.secret import Secret

_NO_KEY = "none"
"""What openai's client is given where there is no key. It is sent nowhere: the client insists on one, and would take
that of OpenAI from the environment and send it to whichever endpoint this is."""

_CONNECTIONS = 8
"""Of one client of openai, which looks at all of its connections before every call; beyond that there are more."""


class Wire:
    """Connections to one endpoint. The key goes to the endpoint's own origin only, whatever URL is asked.

    What fails is raised as `CallError`, alone: errors of the client hold the request, and the request holds the key.
    """

    def __init__(self, base_url: str, secret: Secret, timeout: float | int) -> None:
        import openai

        self._openai, self._secret, self._timeout = openai, secret, timeout
        self._base_url, self._origin = base_url, _origin(base_url)
        self._clients: list[Any] = []
        self._free: list[Any] = []

    async def __aenter__(self) -> Wire:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.close()

    @contextmanager
    def _client(self) -> Generator[Any, None, None]:
        """A client that has a connection to spare; the one that was used last, so that connections are used again."""
        if not self._free:
            self._clients.append(self._connect())
            self._free.extend([self._clients[-1]] * _CONNECTIONS)
        client = self._free.pop()
        try:
            yield client
        finally:
            self._free.append(client)

    def _connect(self) -> Any:
        whole = urlsplit(self._base_url)
        client = self._openai.AsyncOpenAI(
            api_key=self._secret.reveal() or _NO_KEY,
            base_url=urlunsplit(whole._replace(query="", fragment="")),
            # Azure wants a version of its interface in every URL.
            default_query=dict(parse_qsl(whole.query)) or None,
            timeout=float(self._timeout),
            max_retries=0,
        )
        # Taken from the environment too, and of no concern to others than OpenAI.
        client.admin_api_key = None
        if not (whole.hostname or "").endswith(".openai.com"):
            client.organization = client.project = None
        return client

    def _headers(self, request: Request) -> dict[str, Any]:
        """What says who asks: nothing to other hosts than the endpoint's own, and to Azure under a name of its own."""
        key = self._secret.reveal()
        if key is None or (not request.path.startswith("/") and _origin(request.path) != self._origin):
            return {"Authorization": self._openai.Omit()}
        if (urlsplit(self._base_url).hostname or "").endswith(".azure.com"):
            return {"Authorization": self._openai.Omit(), "api-key": key}
        return {}

    async def send(self, request: Request) -> bytes:
        """What comes back with a success; `CallError` otherwise, also after the timeout."""
        headers = self._headers(request)
        try:
            # The client's own timeout is of each read: a server that drips would never reach it.
            with self._client() as client:
                async with asyncio.timeout(self._timeout):
                    options, body = {"headers": headers}, request.body
                    if body is None:
                        return await client.get(request.path, cast_to=bytes, options=options)
                    return await client.post(request.path, body=dict(body), cast_to=bytes, options=options)
        except self._openai.APIStatusError as error:
            failed = refused(error.status_code, error.response.headers, error.response.content, self._secret)
        except (TimeoutError, self._openai.APITimeoutError):
            failed = CallError("timeout", f"nothing within {self._timeout:g} seconds", billed=True)
        except self._openai.APIConnectionError as error:
            failed = self._unconnected(error)
        except Exception as error:  # whatever it is, it may hold the key, and is told without it
            reason = f"{type(error).__name__} ({clean(str(error), self._secret)})"
            failed = CallError("error", reason, advice="Correct base_url or the request.", again=False)
        # Here and not above, where Python would chain it to the error that holds the key.
        raise failed

    def _unconnected(self, error: Exception) -> CallError:
        """No connection, or one that was cut."""
        cause = error.__cause__ or error
        reason = clean(f"{type(cause).__name__}: {cause}", self._secret)
        if type(cause).__name__ == "ConnectError":
            advice = f"Start the server at {self._origin}, or correct base_url."
            return CallError("connect", f"no connection ({reason})", advice=advice)
        return CallError("cut", f"a cut connection ({reason})", billed=True)


def _origin(url: str) -> str:
    """Scheme, host and port, which a key is meant for."""
    whole = urlsplit(url)
    port = whole.port or {"http": 80, "https": 443}.get(whole.scheme)
    host = whole.hostname or ""
    return f"{whole.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
