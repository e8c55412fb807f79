"""How the view looks: pictures of it held against references."""

from __future__ import annotations

from typing import Any

import pytest

from tests import findings
from tests.findings import made
from tests.screenshots import compare_screenshot
from tests.seen import Seen, open_finding

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(show):
    """Shows results of one question, or another finding."""
    return lambda *found, **options: open_finding(show, *found, **options)


def chosen(seen: Seen) -> Seen:
    """With a part of the output chosen, and the pointer elsewhere."""
    seen.drag("output", 2, 4)
    seen.leave()
    return seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_result(opened, new_page, scheme) -> None:
    seen = chosen(opened(findings.sampled(), page=new_page(color_scheme=scheme)))
    compare_screenshot(seen.page, f"view_{scheme}", full_page=True)


def test_a_narrow_window(opened, new_page) -> None:
    seen = chosen(opened(made(), page=new_page(viewport={"width": 390, "height": 800})))
    compare_screenshot(seen.page, "view_narrow", full_page=True)


def test_a_long_prompt(opened) -> None:
    seen = opened(findings.long())
    seen.unit("prompt", 0).focus()
    seen.press("n", "n", "n", "n")
    seen.page.wait_for_timeout(500)  # until what glides has arrived
    seen.leave()
    compare_screenshot(seen.page, "view_long")


def test_a_chat(opened) -> None:
    compare_screenshot(chosen(opened(findings.chat())).page, "view_chat", full_page=True)


def test_without_colours(opened, new_page) -> None:
    seen = chosen(opened(made(), page=new_page(forced_colors="active")))
    compare_screenshot(seen.page, "view_forced", full_page=True)


@pytest.fixture(scope="module")
def found(demo) -> dict[str, Any]:
    """What each experiment finds about a question."""
    return findings.experiments(demo)


@pytest.mark.parametrize("kind", ["comparison", "verification", "counterfactuals"])
def test_experiments(opened, found, kind) -> None:
    seen = opened(found[kind])
    edits = seen.shown.locator(".variants button")
    if edits.count():
        edits.nth(1).click()
    seen.leave()
    # Numbers of a model come out a little different on other machines: the part of the page that holds none.
    compare_screenshot(seen.shown.locator(".panels"), f"view_{kind}")
