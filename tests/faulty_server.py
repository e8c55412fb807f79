"""A server on a local socket that answers, or fails as planned, and remembers what was asked, and how much at once.

It speaks HTTP/1.1 by itself, so that it can do what no library would: drip, stop in the middle, and answer nonsense.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

PAGE = "<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass(frozen=True)
class Reply:
    """What is sent back; with a `fault`, how."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""
    """`drip`: headers, then a byte now and then. `cut`: half of the body. `hang`: nothing. `reset`: a dead line."""
    delay: float = 0.0


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


def answer(seen: Seen) -> Reply:
    """What a well server says: the question itself, and what it took."""
    text = seen.body["text"] if seen.body and "text" in seen.body else seen.path
    content = {"text": f"re: {text}", "logprobs": [-0.5, -1.0], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
    return Reply(body=json.dumps(content))


Plan = Callable[[Seen, int], Reply | None]
"""What is sent to a request that came for the so-manieth time, from 0 on; None for what a well server says."""


class FaultyServer:
    """`with FaultyServer(plan) as server:` listens on `server.url`, in a thread of its own, until the end."""

    def __init__(self, plan: Plan | None = None) -> None:
        self._plan = plan or (lambda seen, times: None)
        self.seen: list[Seen] = []
        self.answered: list[Seen] = []
        self.peak = 0
        self.connections = 0
        self._under_way = 0
        self._times: dict[str, int] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="faulty server")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _live(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        try:
            # A client that goes away in the middle is what is tested.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False where the connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        seen = Seen(method, path, headers, json.loads(body) if body else None)
        self.seen.append(seen)
        key = f"{method} {path} {body!r}"
        times = self._times.get(key, 0)
        self._times[key] = times + 1
        self._under_way += 1
        self.peak = max(self.peak, self._under_way)
        counted = True
        try:
            reply = self._plan(seen, times) or answer(seen)
            await asyncio.sleep(reply.delay)
            if reply.fault == "hang":
                # Whoever waited has gone before the server knows of it.
                self._under_way, counted = self._under_way - 1, False
                await reader.read(1)
                return False
            if reply.fault == "reset":
                writer.transport.abort()
                return False
            content = reply.body.encode()
            start = {"content-type": "application/json", "content-length": str(len(content)), **reply.headers}
            lines = "".join(f"{name}: {value}\r\n" for name, value in start.items())
            writer.write(f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode())
            if reply.fault == "drip":
                self._under_way, counted = self._under_way - 1, False
                for byte in content:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.02)
                return False
            if reply.fault == "cut":
                writer.write(content[: len(content) // 2])
                await writer.drain()
                return False
            # Before it is written: whoever has read it may ask again at once.
            self._under_way, counted = self._under_way - 1, False
            if reply.status == 200:
                self.answered.append(seen)
            writer.write(content)
            await writer.drain()
            return True
        finally:
            self._under_way -= counted


def first(*replies: Reply) -> Plan:
    """These replies to whichever question, one after another for each, then a well server's."""
    return lambda seen, times: replies[times] if times < len(replies) else None


def number(seen: Seen) -> int:
    """The number at the end of what was asked."""
    return int(re.search(r"\d+$", seen.body["text"])[0])
