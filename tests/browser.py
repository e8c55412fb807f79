"""Pages in Debian's Chromium: started, watched, held against WCAG.

Nothing is ever downloaded for it, and nothing leaves the machine: names are not resolved, and every request but the
page's own file is refused and noted. `page`, `new_page`, `watch` and `show` in conftest.py are what tests ask for.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Frame, Page, Route

NAMES = ("chromium", "chromium-browser", "google-chrome")
VIEWPORT = {"width": 1000, "height": 800}
PATIENCE = 15_000
"""Milliseconds that a page may take to do what is waited for: cores are shared with other tests."""

QUIET = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # What playwright's interception does not see (hints to connect early, web sockets) finds no address either.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    # Text looks the same on every screen.
    "--disable-lcd-text",
    "--font-render-hinting=none",
    "--force-color-profile=srgb",
)

AXE = Path(__file__).parent.parent / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
STANDARD = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")


def unavailable(reason: str) -> None:
    """Leaves the test out; in continuous integration it fails, which could otherwise pass without having looked."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def find_chromium() -> str | None:
    """The path of a Chromium of this machine: the one that `CHROMIUM` names, or the first in PATH."""
    named = os.environ.get("CHROMIUM")
    if named:
        return shutil.which(named)
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium(executable: str) -> Iterator[Browser]:
    """A Chromium without a window, with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*QUIET, "--no-sandbox"])
        yield browser
        browser.close()


class Turns:
    """Playwright counts its event loop as running between its calls, when no other could run: the two take turns."""

    def __init__(self) -> None:
        self.loop = asyncio._get_running_loop()
        self.pause()

    def pause(self) -> None:
        asyncio._set_running_loop(None)

    def resume(self) -> None:
        asyncio._set_running_loop(self.loop)


@dataclass
class Watch:
    """What pages did that they must not do; a test that expects it clears that list, or everything."""

    dialogs: list[str] = field(default_factory=list)
    """What they said; each was dismissed."""
    requests: list[str] = field(default_factory=list)
    """Addresses asked for, other than the page's own; each was refused."""
    windows: list[str] = field(default_factory=list)
    """Addresses of windows that pages opened."""
    errors: list[str] = field(default_factory=list)
    """Exceptions that nobody caught."""
    console: list[str] = field(default_factory=list)
    """Errors on the console."""
    refused: list[str] = field(default_factory=list)
    """Errors on the console that say what the content security policy, or Trusted Types, refused."""

    def clear(self) -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name).clear()

    def settle(self) -> None:
        """Fails the test if anything is left here."""
        if str(self):
            pytest.fail(f"What a page must not do:\n{self}", pytrace=False)

    def __str__(self) -> str:
        return "\n".join(f"{name}: {said}" for name in self.__dataclass_fields__ for said in getattr(self, name))

    def attach(self, context: BrowserContext) -> Page:
        """A page of this context, all of whose doings are noted here."""
        context.set_default_timeout(PATIENCE)
        context.route("**/*", self._refuse)
        context.on("dialog", self._dismiss)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("console", lambda message: self._note(message.type, message.text))
        context.on("page", lambda page: page.on("websocket", lambda socket: self.requests.append(socket.url)))
        page = context.new_page()
        context.on("page", lambda opened: self.windows.append(opened.url))
        return page

    def _refuse(self, route: Route) -> None:
        url = route.request.url
        if url.startswith(("about:", "data:", "blob:")):
            route.continue_()
            return
        self.requests.append(url)
        with suppress_closed():
            route.abort()

    def _dismiss(self, dialog: Dialog) -> None:
        self.dialogs.append(f"{dialog.type} {dialog.message}")
        with suppress_closed():
            dialog.dismiss()

    def _note(self, kind: str, text: str) -> None:
        if kind == "error":
            policy = "Content Security Policy" in text or "TrustedHTML" in text or "TrustedScript" in text
            (self.refused if policy else self.console).append(text)


@contextmanager
def suppress_closed() -> Iterator[None]:
    """The page may have been closed meanwhile."""
    from playwright.sync_api import Error

    with suppress(Error):
        yield


def open_page(page: Page, path: Path) -> Page:
    """The page, showing that file: the only one that it may ever read."""
    address = path.resolve().as_uri()
    page.route(lambda url: url == address, lambda route: route.continue_())
    page.goto(address)
    return page


@dataclass(frozen=True)
class Violation:
    """A rule of WCAG that a page breaks."""

    rule: str
    impact: str
    says: str
    places: tuple[str, ...]
    """A selector and the markup of each."""

    def __repr__(self) -> str:
        return f"{self.rule} ({self.impact}): {self.says}" + "".join(f"\n    {place}" for place in self.places)


def _runs_scripts(frame: Frame) -> bool:
    if frame.parent_frame is None:
        return True
    sandbox = frame.frame_element().get_attribute("sandbox")
    return sandbox is None or "allow-scripts" in sandbox


def violations(page: Page, tags: Sequence[str] = STANDARD) -> list[Violation]:
    """What axe-core finds against levels A and AA, in the page and in those of its frames that may run scripts.

    The page must be allowed scripts, and gets a global `axe`: ask this last.
    """
    if not AXE.exists():
        unavailable("axe-core is needed: type `make check`, which installs it")
    source = AXE.read_text(encoding="utf-8")
    # Evaluated as the developer tools do it, which no policy of the page forbids.
    for frame in filter(_runs_scripts, page.frames):
        # A sandboxed frame has an origin of its own; axe in the page is still to hear from axe in there.
        frame.evaluate(f"{source};axe.configure({{allowedOrigins: ['<unsafe_all_origins>']}})")
    options = {"runOnly": {"type": "tag", "values": list(tags)}, "resultTypes": ["violations"]}
    found: list[dict[str, Any]] = page.evaluate(
        "async (options) => (await axe.run(document, options)).violations", options
    )
    return [
        Violation(
            rule=each["id"],
            impact=each["impact"],
            says=each["help"],
            places=tuple(
                f"{' '.join(map(str, node['target']))}: {node['html']}\n        "
                + node["failureSummary"].replace("\n", "\n        ")
                for node in each["nodes"]
            ),
        )
        for each in found
    ]
