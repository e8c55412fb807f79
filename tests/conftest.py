"""Every annotation of the package is checked at run time in the tests; models and tokenizers are made on the spot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import transformers.modeling_utils  # noqa: F401 - before the hook, which would compile all that it imports anew

from tests.checked import check_package

# Before anything of the package is imported.
check_package("attribution")

import pytest
import torch

import attribution
from attribution.cli import main
from attribution.models.local import LocalModel
from tests.browser import NAMES, VIEWPORT, Turns, Watch, chromium, find_chromium, open_page, unavailable
from tests.tiny import tiny_model, tiny_tokenizer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.servers import Server

# Tiny models gain nothing from threads, and lose much where other processes want the cores too.
torch.set_num_threads(1)


@pytest.fixture
def untyped():
    """As for a user who does not check types at run time: wrong arguments reach the functions themselves."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def demo() -> LocalModel:
    """The embedded model."""
    return attribution.load("demo")


@pytest.fixture(scope="session")
def llama() -> LocalModel:
    """A tiny random Llama with a BOS token."""
    return LocalModel(tiny_model("llama"), tiny_tokenizer(), name="tiny llama")


@pytest.fixture(scope="session")
def gpt2() -> LocalModel:
    """A tiny random GPT-2, whose tokenizer adds no BOS token."""
    return LocalModel(tiny_model("gpt2"), tiny_tokenizer(bos=False), name="tiny gpt2")


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """llama.cpp's server with the embedded model and two slots, started when a test of this process first needs it."""
    from tests import servers

    with servers.llama_server(tmp_path_factory.mktemp("llama"), slots=2) as server:
        yield server


@pytest.fixture(scope="session")
def transformers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`transformers serve` with the embedded model: texts, and no log-probabilities."""
    from tests import servers

    with servers.transformers_server(tmp_path_factory.mktemp("transformers")) as server:
        yield server


@pytest.fixture
def stand_in(demo: LocalModel) -> Iterator[Server]:
    """A server that speaks as vLLM's does, with the embedded model; its `stand_in.calls` are what it was asked."""
    from tests import servers

    with servers.stand_in(demo) as server:
        yield server


@pytest.fixture
def cli(untyped, capsys: pytest.CaptureFixture[str]):
    """Runs the entry point in this process: exit status, standard output and standard error."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        return (left.value.code or 0, *capsys.readouterr())

    return invoke


@pytest.fixture(scope="session")
def browser() -> Iterator[tuple[Browser, Turns]]:
    """The one Chromium of this process, started when a test first needs it."""
    executable = find_chromium()
    if executable is None:
        where = os.environ.get("CHROMIUM") or ", ".join(NAMES)
        unavailable(f"Chromium is needed, found none ({where}): apt-get install chromium, or set CHROMIUM to its path")
    with chromium(executable) as started:
        turns = Turns()
        yield started, turns
        turns.resume()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """What the test's pages did; it fails where they did what they must not, unless it cleared that here."""
    noted = Watch()
    yield noted
    noted.settle()


@pytest.fixture
def new_page(watch: Watch, browser: tuple[Browser, Turns]) -> Iterator[Callable[..., Page]]:
    """Opens an empty page in a context of its own, with playwright's options: `color_scheme="dark"`, `viewport`..."""
    chrome, turns = browser
    turns.resume()
    contexts = []

    def open_one(**options: Any) -> Page:
        context = chrome.new_context(**{"viewport": VIEWPORT, "locale": "en-US", "timezone_id": "UTC", **options})
        contexts.append(context)
        return watch.attach(context)

    try:
        yield open_one
    finally:
        for context in contexts:
            # What the page said last is still to arrive.
            for page in context.pages:
                page.wait_for_timeout(0)
            context.close()
        turns.pause()


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    """An empty page, 1000 x 800, that may read no other file than the one it is opened with."""
    return new_page()


@pytest.fixture
def show(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Page]:
    """Shows this markup, or this file, in `page` or in another page."""

    def opened(source: str | Path, page: Page | None = None) -> Page:
        if isinstance(source, str):
            path = tmp_path / f"page{len(list(tmp_path.iterdir()))}.html"
            path.write_text(source, encoding="utf-8")
            source = path
        return open_page(page or request.getfixturevalue("page"), source)

    return opened
