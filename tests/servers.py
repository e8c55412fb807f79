"""Servers of language models, started for tests on this machine: llama.cpp's, transformers', and one like vLLM's.

All of them serve the embedded model. `llama_server`, `transformers_server` and `stand_in` in conftest.py are what tests
ask for; a test is left out, with the reason, where a server cannot be had.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from attribution.models.demo import FOLDER
from attribution.models.local import LocalModel
from tests.stand_in import StandIn
from training.to_gguf import CHAT_TEMPLATE, write_gguf

MAKEFILE = Path(__file__).parent.parent / "Makefile"
CONTEXT = 2048
"""Tokens of a prompt and its output, in each of llama-server's slots."""

PATIENCE = 300
"""Seconds that a server may take to start: cores are shared with other tests."""


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    text: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Server:
    """A server that runs: where it is, the model's name there, and what it said so far on standard output and error."""

    url: str
    model: str
    log: Path | None = None
    stand_in: StandIn | None = field(default=None, repr=False)

    def get(self, path: str, **headers: str) -> Reply:
        """The reply to a request without a body."""
        return self._send(urllib.request.Request(self.url + path, headers=headers))

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        """The reply to a JSON body, or to these bytes; also where it is an error."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        said = {"Content-Type": "application/json", **headers}
        return self._send(urllib.request.Request(self.url + path, data, said))

    def ask(self, path: str, **body: Any) -> Any:
        """The JSON that comes back for these fields; fails the test where that is an error."""
        reply = self.post(path, body)
        assert reply.status == 200, reply.text
        return reply.json

    def _send(self, request: urllib.request.Request) -> Reply:
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
                return Reply(reply.status, reply.read().decode(), time.perf_counter() - start)
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read().decode(), time.perf_counter() - start)


def find_llama_server() -> Path | None:
    """The path of llama.cpp's server: the one that `LLAMA_SERVER` names, or the one that `make llama-server` built."""
    named = os.environ.get("LLAMA_SERVER")
    if named:
        found = shutil.which(named)
        return Path(found) if found else None
    version = re.search(r"^LLAMA := (\S+)$", MAKEFILE.read_text(encoding="utf-8"), re.M)
    assert version, "the Makefile says which version of llama.cpp it builds"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    built = cache / "attribution" / f"llama-server-{version[1]}" / "llama-server"
    return built if built.exists() else None


@contextmanager
def llama_server(folder: Path, *, slots: int = 1, options: tuple[str, ...] = ()) -> Iterator[Server]:
    """llama.cpp's server with the embedded model; the file it reads and what it says are in the folder.

    Keys and values are float32 and no kernel is fused, so that numbers are as near to ours as they get.
    """
    executable = find_llama_server()
    if executable is None:
        pytest.skip("llama.cpp's server is not built. Type: make llama-server")
    file = folder / "demo.gguf"
    if not file.exists():
        write_gguf(file)
    port = free_port()
    command = [
        *(str(executable), "--model", str(file), "--alias", "demo"),
        *("--host", "127.0.0.1", "--port", str(port), "--offline", "--no-webui"),
        *("--ctx-size", str(CONTEXT * slots), "--parallel", str(slots), "--threads", "1"),
        *("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"),
        *options,
    ]
    with _running(command, folder / f"llama-server-{port}.log") as log:
        server = Server(f"http://127.0.0.1:{port}", "demo", log)
        yield server


@contextmanager
def transformers_server(folder: Path) -> Iterator[Server]:
    """`transformers serve` with the embedded model, which gets a chat template in the folder."""
    for package in ("fastapi", "openai", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"transformers serve needs {package}. Type: pip install {package}")
    model = folder / "demo"
    shutil.copytree(FOLDER, model, ignore=shutil.ignore_patterns("*.py", "__pycache__"), dirs_exist_ok=True)
    (model / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    port = free_port()
    program = "from transformers.cli.transformers import app; app()"
    command = [sys.executable, "-c", program, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    # Asked for its models it looks through this folder, and fails where there is none.
    cache = folder / "hub"
    cache.mkdir(exist_ok=True)
    settings = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with _running([*command, "--device", "cpu"], folder / f"transformers-{port}.log", settings) as log:
        yield Server(f"http://127.0.0.1:{port}", str(model), log)


@contextmanager
def stand_in(model: LocalModel, **options: Any) -> Iterator[Server]:
    """A server that speaks as vLLM's does, in a thread of this process; `options` are `StandIn`'s."""
    import uvicorn

    app = StandIn(model, **{"template": CHAT_TEMPLATE, **options})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(app.app, log_level="warning", lifespan="off", ws="none", loop="asyncio", http="h11")
        server = uvicorn.Server(config)
        thread = Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            _wait(f"{address}/health", lambda: thread.is_alive())
            yield Server(address, app.name, stand_in=app)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@contextmanager
def _running(command: list[str], log: Path, settings: dict[str, str] | None = None) -> Iterator[Path]:
    """Runs a server, from when it says that it is well until the block ends; what it says is in a file."""
    port = command[command.index("--port") + 1]
    environment = {**os.environ, **(settings or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            if not _wait(f"http://127.0.0.1:{port}/health", lambda: process.poll() is None):
                pytest.fail(f"{Path(command[0]).name} did not start:\n{log.read_text(errors='replace')[-4000:]}")
            yield log
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(address: str, lives: Any) -> bool:
    """Whether the address answers with 200 before the server dies or patience ends."""
    end = time.monotonic() + PATIENCE
    while lives() and time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return True
        except OSError:  # nobody there yet, or not ready
            time.sleep(0.05)
    return False
