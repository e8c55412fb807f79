"""What a person sees of a finding's page, and does there: with the pointer and the keyboard, as they do it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attribution.views.scale import NEGLIGIBLE, fit
from tests.findings import page_of

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Locator, Page

STEPS = 12

_SHADES = """box => {
    const found = [];
    for (const piece of box.querySelectorAll('[data-group]')) found[piece.dataset.group] ??= [...piece.classList];
    return found;
}"""

_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"


def told(value: float, *, signed: bool = True) -> str:
    """The number as the page writes it, where the largest beside it is at least 0.1."""
    sign = "−" if value < 0 else "+" if signed else ""
    return f"{sign}{abs(value):.3f}"


def percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.001 else f"{math.floor(share * 1000 + 0.5) / 10:.1f}%"


def step(score: float, limit: float, threshold: float = 0.0) -> int:
    """The shade of a score, beyond `STEPS` where it is clipped."""
    size = abs(score) / limit
    if size < max(threshold, 0.5 / STEPS):
        return 0
    shade = STEPS + 1 if size > 1.0005 else max(1, min(STEPS, math.floor(size * STEPS + 0.5)))
    return shade if score > 0 else -shade


@dataclass
class Seen:
    """A page, or a frame of it, that shows a finding."""

    shown: Page | Frame

    @property
    def page(self) -> Page:
        return getattr(self.shown, "page", self.shown)

    # Where things are

    def box(self, side: str, place: int = 0) -> Locator:
        """The text of a side of the panel at this place."""
        panel = self.shown.locator(".panel").nth(place)
        return panel.locator(".frame > .text").first if side == "prompt" else panel.locator("> .text")

    def unit(self, side: str, group: int, place: int = 0) -> Locator:
        return self.box(side, place).locator(f'[data-group="{group}"]').first

    def middle(self, side: str, group: int, place: int = 0) -> tuple[float, float]:
        unit = self.unit(side, group, place)
        unit.scroll_into_view_if_needed()
        around = unit.bounding_box()
        assert around is not None
        return around["x"] + around["width"] / 2, around["y"] + around["height"] / 2

    def control(self, label: str) -> Locator:
        """The box or the choice with this label."""
        return self.shown.locator("label", has_text=re.compile(rf"^\s*{re.escape(label)} ?")).locator("select, input")

    # What a person does

    def settle(self) -> None:
        """Waits until all that was asked for is painted."""
        self.shown.evaluate(_FRAMES)
        self.shown.evaluate(_FRAMES)

    def hover(self, side: str, group: int, place: int = 0) -> None:
        self.page.mouse.move(*self.middle(side, group, place))
        self.settle()

    def leave(self) -> None:
        """Takes the pointer off all texts."""
        self.page.mouse.move(1, 1)
        self.settle()

    def click(self, side: str, group: int, place: int = 0, *, shift: bool = False) -> None:
        self.hover(side, group, place)
        if shift:
            self.page.keyboard.down("Shift")
        self.page.mouse.down()
        self.page.mouse.up()
        if shift:
            self.page.keyboard.up("Shift")
        self.settle()

    def drag(self, side: str, first: int, last: int) -> None:
        # In sight before the pointer is put down: scrolling is no part of it.
        self.middle(side, last)
        self.page.mouse.move(*self.middle(side, first))
        self.page.mouse.down()
        self.page.mouse.move(*self.middle(side, last), steps=12)
        self.page.mouse.up()
        self.settle()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def choose(self, label: str, value: str) -> None:
        self.control(label).select_option(value)
        self.settle()

    def tick(self, label: str, on: bool = True) -> None:
        self.control(label).set_checked(on)
        self.settle()

    # What is seen

    def classes(self, side: str, place: int = 0) -> list[list[str]]:
        """Of every group, how its first piece is dressed."""
        return self.box(side, place).evaluate(_SHADES)

    def shades(self, side: str, place: int = 0) -> list[int]:
        """The shade of every group: positive for, negative against, beyond `STEPS` where clipped."""
        found = []
        for names in self.classes(side, place):
            sizes = [int(name[1:]) for name in names if re.fullmatch(r"[sq]\d+", name)]
            size = (sizes or [0])[0] + ("clipped" in names)
            found.append(-size if "against" in names else size)
        return found

    def marked(self, mark: str, side: str = "prompt", place: int = 0) -> list[int]:
        """The groups that have a mark: selected, found, visited, partner, verified."""
        return [group for group, names in enumerate(self.classes(side, place)) if mark in names]

    def text(self, selector: str) -> str:
        return self.shown.locator(selector).first.inner_text()

    @property
    def readout(self) -> str:
        return re.sub(r"\s+", " ", self.text(".readout"))

    def table(self, selector: str = ".list table") -> list[list[str]]:
        """The cells of every row of a table."""
        return self.shown.locator(selector).first.evaluate(
            "table => [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.innerText.trim()))"
        )

    def heads(self, selector: str = ".list table") -> list[str]:
        return self.shown.locator(selector).first.evaluate(
            "table => [...table.tHead.rows[0].cells].map(c => c.innerText)"
        )

    @property
    def caption(self) -> str:
        return self.text(".list caption")

    # What should be seen

    def check(
        self,
        scores: Sequence[float],
        names: Sequence[str],
        *,
        special: Collection[int] = (0,),
        limit: float | None = None,
        threshold: float = 0.0,
    ) -> None:
        """Holds shades, legend and ranked list of the prompt against these scores of its groups."""
        scores = [float(score) for score in scores]
        counted = [group for group in range(len(scores)) if group not in special]
        limit = limit or fit([scores[group] for group in counted]).limit
        shades = [step(scores[group], limit, threshold) if group in counted else 0 for group in range(len(scores))]
        assert self.shades("prompt") == shades
        assert f"{told(limit)} for" in re.sub(r"\s+", " ", self.text(".legend"))
        order = sorted(counted, key=lambda group: -abs(scores[group]))
        total, largest = sum(abs(scores[group]) for group in counted), abs(scores[order[0]])
        cumulative, rows = 0.0, []
        for rank, group in enumerate(order, 1):
            cumulative += abs(scores[group]) / total
            if abs(scores[group]) >= max(NEGLIGIBLE * largest, threshold * limit) and scores[group] != 0:
                share = percent(abs(scores[group]) / total)
                rows.append([str(rank), names[group], told(scores[group]), share, percent(cumulative)])
        found = [[row[0], row[1], row[-4], row[-2], row[-1]] for row in self.table()]
        assert found == rows[:25]


def open_finding(show: Callable[..., Page], *found: Any, page: Page | None = None, outputs: Any = None) -> Seen:
    """What is seen of results of one question, or of another finding, once it is painted."""
    seen = Seen(show(page_of(*found, outputs=outputs), page))
    seen.shown.wait_for_selector(".legend .bar, .variants")
    seen.settle()
    return seen


def open_module(page: Page, source: str, payload: Any, options: str = "{}") -> None:
    """Mounts the view in a page of one's own: `window.views` has what `mount` gave."""
    page.evaluate(
        """async ([source, payload, options]) => {
            const { mount } = await import('data:text/javascript,' + encodeURIComponent(source));
            const element = document.body.appendChild(document.createElement('main'));
            (window.views ??= []).push(await mount(element, payload, new Function('return ' + options)()));
        }""",
        [source, payload, options],
    )
