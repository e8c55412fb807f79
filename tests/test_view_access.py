"""The view for everybody: held against WCAG, by keyboard alone, without colours, without motion, from right to left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import findings
from tests.browser import violations
from tests.findings import NAMES, made
from tests.seen import STEPS, open_finding

pytestmark = pytest.mark.slow

MADE = ("made", "unsigned", "sampled", "paired", "whole", "weak", "clipped", "long", "chat", "right_to_left")


@pytest.fixture(scope="module")
def found(demo) -> dict[str, Any]:
    """What each experiment finds about a question."""
    return findings.experiments(demo)


@pytest.fixture
def opened(show):
    """Shows results of one question, or another finding."""
    return lambda *found, **options: open_finding(show, *found, **options)


# WCAG


def check(seen) -> None:
    """Holds the page against WCAG as it is, in dark, and narrow."""
    assert not violations(seen.page)
    seen.page.emulate_media(color_scheme="dark")
    assert not violations(seen.page)
    seen.page.emulate_media(color_scheme="light")
    seen.page.set_viewport_size({"width": 390, "height": 800})
    seen.settle()
    assert not violations(seen.page)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE)
def test_results_keep_wcag(opened, kind) -> None:
    seen = opened(findings.long(600) if kind == "long" else getattr(findings, kind)())
    if kind in ("made", "sampled", "long"):
        seen.click("output", 2)
        seen.shown.get_by_role("searchbox").fill("an")
        seen.press("n")
    elif kind in ("chat", "paired"):
        seen.click("prompt", 3)
        if kind == "paired":
            seen.tick("pairs as arcs")
    check(seen)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["comparison", "verification", "whatif", "counterfactuals"])
def test_experiments_keep_wcag(opened, found, kind) -> None:
    seen = opened(found[kind])
    edits = seen.shown.locator(".variants button")
    if edits.count():
        edits.nth(1).click()
    check(seen)


def test_a_notebook_keeps_wcag(show, page) -> None:
    show(f'<!doctype html><html lang="en"><title>n</title><main>{made().html_view().notebook()}</main></html>', page)
    page.frames[-1].wait_for_selector(".legend .bar")
    assert not violations(page)


# Contrast

_CONTRASTS = """() => {
    const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const drawn = (colours) => {
        pen.clearRect(0, 0, 1, 1);
        for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
        return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map(level => level / 255);
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map(c => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const root = document.querySelector('.attribution');
    const paper = getComputedStyle(root).backgroundColor;
    const into = document.querySelector('.text .line');
    const found = {};
    const names = ['unit', 'unit special'];
    for (let at = 1; at <= 12; at++) {
        for (const sign of ['for', 'against']) {
            names.push(`unit ${sign} s${at}`, `unit special ${sign} s${at}`);
        }
        names.push(`unit q${at}`);
    }
    names.push('unit for s12 clipped', 'unit against s12 clipped');
    for (const name of [...names, 'ins', 'del']) {
        const isTag = name === 'ins' || name === 'del';
        const unit = into.appendChild(document.createElement(isTag ? name : 'span'));
        if (!isTag) unit.className = name;
        unit.textContent = 'x';
        const style = getComputedStyle(unit);
        const ground = light(drawn([paper, style.backgroundColor]));
        const ratio = (colour) => {
            const ink = light(drawn([paper, style.backgroundColor, colour]));
            return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        };
        const line = [ratio(style.textDecorationColor), style.textDecorationLine];
        found[name] = [ratio(style.color), ...line, style.backgroundColor];
        unit.remove();
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_every_shade(opened, new_page, scheme) -> None:
    seen = opened(made(), page=new_page(color_scheme=scheme))
    contrasts = seen.page.evaluate(_CONTRASTS)
    low = {name: ratio for name, (ratio, *_) in contrasts.items() if ratio < 4.5}
    assert not low
    grounds = {contrasts[f"unit {sign} s{at}"][3] for sign in ("for", "against") for at in range(1, STEPS + 1)}
    assert len(grounds) == 2 * STEPS
    # The line below says the sign: where it is drawn it can be seen. The faintest shade has none.
    faint = ("unit for s1", "unit against s1")
    lines = {n: ratio for n, (_, ratio, line, _) in contrasts.items() if line == "underline" and "special" not in n}
    assert not {name: ratio for name, ratio in lines.items() if ratio < 3 and name not in faint}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shades_deepen_step_by_step(opened, new_page, scheme) -> None:
    seen = opened(made(), page=new_page(color_scheme=scheme))
    contrasts = seen.page.evaluate(_CONTRASTS)
    for sign in ("for", "against"):
        ratios = [contrasts["unit"][0]] + [contrasts[f"unit {sign} s{at}"][0] for at in range(1, STEPS + 1)]
        assert ratios == sorted(ratios, reverse=True)


# Without colours, without motion


def test_signs_show_without_colours(opened, new_page) -> None:
    seen = opened(made(), page=new_page(forced_colors="active"))
    styles = "u => [getComputedStyle(u).textDecorationStyle, getComputedStyle(u).textDecorationLine]"
    checked = set()
    for unit, shade in enumerate(seen.shades("prompt")):
        style, line = seen.unit("prompt", unit).evaluate(styles)
        if abs(shade) > 1:
            assert (style, line) == (("solid" if shade > 0 else "dashed"), "underline")
            checked.add(shade > 0)
        elif shade == 0:
            assert line == "none"
    assert checked == {True, False}
    seen.click("output", 2)
    assert seen.unit("output", 2).evaluate("u => getComputedStyle(u).outlineStyle") == "solid"
    kept = "all => new Set(all.map(each => getComputedStyle(each).backgroundColor)).size"
    assert seen.shown.locator(".legend .bar span").evaluate_all(kept) > 3
    assert seen.shown.locator(".meter").first.evaluate("m => getComputedStyle(m).backgroundColor") != "rgba(0, 0, 0, 0)"


def test_nothing_glides_for_those_who_asked_for_less_motion(opened, new_page) -> None:
    seen = opened(findings.long(1_500), page=new_page(reduced_motion="reduce"))
    seen.unit("prompt", 0).focus()
    seen.page.evaluate(
        """() => {
            window.asked = [];
            const own = Element.prototype.scrollIntoView;
            Element.prototype.scrollIntoView = function (how) { window.asked.push(how.behavior); own.call(this, how); };
        }"""
    )
    seen.press("n", "n")
    asked = seen.page.evaluate("window.asked")
    assert asked
    assert "smooth" not in asked
    still = """all => all.map(each => getComputedStyle(each))
        .every(style => style.animationName === 'none' && parseFloat(style.transitionDuration) === 0)"""
    assert seen.shown.locator(".attribution *").evaluate_all(still)


# By keyboard


def focused(seen) -> int | None:
    group = seen.page.evaluate("document.activeElement.dataset.group ?? null")
    return None if group is None else int(group)


def test_one_stop_for_each_text(opened) -> None:
    seen = opened(made())
    stops = seen.shown.locator(".text [tabindex='0']")
    assert stops.count() == 2
    seen.shown.get_by_role("button", name="whole output").focus()
    seen.press("Tab")
    assert focused(seen) == 0
    seen.press("ArrowRight", "ArrowRight", "Tab")
    assert seen.page.evaluate("document.activeElement.closest('.text').getAttribute('aria-label')") == "output"
    assert seen.unit("prompt", 2).get_attribute("tabindex") == "0"
    seen.press("Shift+Tab")
    assert focused(seen) == 2  # where it was left
    assert stops.count() == 2


def test_arrows_walk_preview_and_enter_chooses(opened) -> None:
    seen = opened(made())
    seen.unit("output", 0).focus()
    seen.press("ArrowRight", "ArrowRight")
    assert focused(seen) == 2
    seen.check(made().total(2), NAMES)  # as if pointed at
    seen.press("Enter")
    assert "Strongest for ‘3’" in seen.text(".live")
    seen.press("End")
    assert focused(seen) == 9
    assert seen.caption == "Strongest for ‘.’"
    seen.press("Home", "ArrowLeft")
    assert focused(seen) == 0
    seen.press("Tab")
    assert seen.marked("selected", "output") == [2]
    seen.check(made().total(2), NAMES)


def test_shift_and_arrows_extend(opened) -> None:
    seen = opened(made())
    seen.unit("output", 0).focus()
    seen.press("ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight")
    assert seen.marked("selected", "output") == [1, 2, 3]
    seen.check(made().total([1, 2, 3]), NAMES)
    seen.press("Shift+ArrowLeft")
    assert seen.marked("selected", "output") == [1, 2]
    seen.press("Escape")
    assert seen.marked("selected", "output") == []
    seen.press("End", "Space", "Shift+Home")
    assert seen.marked("selected", "output") == list(range(10))
    seen.press("Escape")
    seen.unit("prompt", 0).focus()
    seen.press("ArrowRight", "ArrowRight", "Enter", "ArrowRight", "Shift+Enter")
    assert seen.marked("selected") == [2, 3]


def test_up_and_down_go_by_lines(opened) -> None:
    seen = opened(made())
    seen.unit("prompt", 0).focus()
    seen.press("ArrowRight", "ArrowRight")
    seen.press("ArrowDown")
    assert focused(seen) in range(9, 14)  # "Bob has 5."
    seen.press("ArrowUp")
    assert focused(seen) in range(0, 9)


def test_the_focus_can_be_seen(opened) -> None:
    seen = opened(made())
    seen.shown.get_by_role("button", name="whole output").focus()
    seen.press("Tab", "ArrowRight")
    style = seen.unit("prompt", 1).evaluate("u => [getComputedStyle(u).outlineStyle, getComputedStyle(u).outlineWidth]")
    assert style[0] != "none"
    assert float(style[1].removesuffix("px")) >= 2


def test_the_focus_is_not_lost_with_a_list_made_anew(opened) -> None:
    seen = opened(made(scores=np.ones((10, 61), np.float32), **_of(60)))
    more = seen.shown.get_by_role("button", name="show them")
    more.focus()
    seen.press("Enter")
    assert len(seen.table()) == 60
    assert seen.page.evaluate("document.activeElement !== document.body")
    seen.shown.locator(".list td button").nth(3).focus()
    seen.hover("output", 2)
    assert seen.page.evaluate("document.activeElement.closest('.list') !== null")


def _of(count: int) -> dict[str, Any]:
    pieces = [f" w{index}" for index in range(count)]
    return {"units": findings.units_of(pieces), "prompt": "".join(pieces), "output_scores": None}


# For screen readers


def test_what_is_told_aloud(opened) -> None:
    seen = opened(made())
    live = seen.shown.locator(".live")
    assert live.get_attribute("role") == "status"
    seen.hover("output", 2)
    assert seen.text(".live") == ""  # only what is chosen
    seen.click("output", 2)
    order = sorted(range(1, 20), key=lambda unit: -abs(made().scores[2, unit]))
    assert seen.text(".live").startswith("Strongest for ‘3’: ")
    positions = [seen.text(".live").index(NAMES[unit]) for unit in order[:3]]
    assert positions == sorted(positions)


def test_texts_are_lists_of_options(opened) -> None:
    seen = opened(findings.chat())
    assert seen.shown.get_by_role("listbox", name="prompt", exact=True).count() == 1
    assert seen.shown.get_by_role("listbox", name="output", exact=True).get_by_role("option").count() == 10
    assert seen.shown.get_by_role("group", name="assistant", exact=True).count() == 1
    assert seen.shown.get_by_role("table").first.locator("caption").count() == 1
    seen.choose("output by", "line")
    assert seen.shown.get_by_role("listbox", name="output", exact=True).get_by_role("option").count() == 2


# From right to left


def test_from_right_to_left(opened) -> None:
    seen = opened(findings.right_to_left())
    line = seen.box("prompt").locator(".line")
    directions = line.evaluate_all("all => all.map(each => getComputedStyle(each).direction)")
    assert directions == ["rtl", "ltr"]
    first, second = seen.unit("prompt", 1).bounding_box(), seen.unit("prompt", 2).bounding_box()
    assert first["x"] > second["x"]
    seen.unit("prompt", 0).focus()
    seen.press("ArrowLeft", "ArrowLeft")
    assert focused(seen) == 2
    seen.press("ArrowRight")
    assert focused(seen) == 1
    seen.press("End", "ArrowLeft")
    assert focused(seen) == 9  # the last line runs from left to right
    seen.click("output", 1)
    seen.leave()
    assert seen.marked("selected", "output") == [1]
