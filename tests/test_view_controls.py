"""The view's controls in a browser: scale, ranked list, hits, search, minimap, and what can be taken away."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from attribution.views.scale import fit
from tests import findings
from tests.findings import NAMES, made
from tests.seen import STEPS, open_finding, told

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(show):
    """Shows results of one question, or another finding."""
    return lambda *found, **options: open_finding(show, *found, **options)


def legend(seen) -> str:
    """What is said about the scale: above the prompt, and below the output."""
    return " ".join(f"{seen.text('.legend')} {seen.text('.notes')}".split())


# The scale


def test_the_scale_is_centred_at_zero_and_says_its_unit(opened) -> None:
    seen = opened(made())
    limit = fit([float(score) for score in made().total()[1:]]).limit
    assert legend(seen).startswith(f"{told(-limit)} against")
    assert f"{told(limit)} for nats" in legend(seen)
    bar = seen.shown.locator(".legend .bar span").evaluate_all("all => all.map(each => each.className)")
    assert bar[0] == "against s12"
    assert bar[STEPS] == "none"
    assert bar[-1] == "for s12"
    assert len(bar) == 2 * STEPS + 1


def test_a_locked_scale_stays(opened) -> None:
    seen = opened(made())
    limit = fit([float(score) for score in made().total()[1:]]).limit
    seen.tick("lock scale")
    for output in (2, 7):
        seen.click("output", output)
        seen.leave()
        seen.check(made().total(output), NAMES, limit=limit)
        assert "scale locked" in legend(seen)
    seen.tick("lock scale", on=False)
    seen.check(made().total(7), NAMES)


def test_what_a_locked_scale_cannot_hold_is_marked(opened) -> None:
    seen = opened(made())
    seen.click("output", 4)
    seen.leave()
    limit = fit([float(score) for score in made().scores[4, 1:]]).limit
    seen.tick("lock scale")
    seen.press("Escape")
    beyond = int((np.abs(made().total()[1:]) > limit * 1.0005).sum())
    assert beyond > 0
    assert f"{beyond} token" in legend(seen)
    assert sum(abs(shade) > STEPS for shade in seen.shades("prompt")) == beyond


def test_a_few_beyond_all_others_are_clipped_and_marked(opened) -> None:
    seen = opened(findings.clipped())
    assert "+1.000 for" in legend(seen)
    assert "2 tokens beyond the scale" in legend(seen)
    shades = seen.shades("prompt")
    assert [unit for unit, shade in enumerate(shades) if abs(shade) > STEPS] == [8, 150]
    styles = [
        seen.unit("prompt", unit).evaluate("unit => getComputedStyle(unit).textDecorationStyle") for unit in (8, 150, 9)
    ]
    assert styles == ["double", "wavy", "solid"]
    assert [row[2] for row in seen.table()[:3]] == ["+50.000", "−20.000", "+1.000"]


@pytest.mark.parametrize("factor", [1e-4, 0.0])
def test_a_weak_signal_is_said_and_nothing_is_coloured(opened, factor) -> None:
    seen = opened(findings.weak(factor))
    assert "Weak signal, nothing is coloured: " in legend(seen)
    assert ("every score is 0" if factor == 0 else "nothing moves it by 0.01 nats") in legend(seen)
    assert not any(seen.shades("prompt"))
    seen.click("output", 2)
    assert "weak signal" in seen.text(".live")
    seen.click("prompt", 3)
    seen.leave()
    if factor == 0:
        assert "Nothing to list" in seen.text(".list")


def test_noise_beside_a_strong_output_is_weak(opened) -> None:
    scores = made().scores.copy()
    scores[1] *= 0.05 / abs(scores[1, 1:]).max()
    seen = opened(made(scores=scores))
    seen.click("output", 1)
    seen.leave()
    assert "no score is 2% of the strongest for other outputs" in legend(seen)
    assert not any(seen.shades("prompt"))


def test_errors_are_shown(opened) -> None:
    found = findings.sampled()
    seen = opened(found)
    seen.click("output", 2)
    seen.leave()
    scores, errors = found.total(2), found.errors[2]
    shown = [unit for unit in range(1, 20) if abs(scores[unit]) >= 0.01 * abs(scores[1:]).max()]
    order = sorted(shown, key=lambda unit: -abs(scores[unit]))
    assert [row[2] for row in seen.table()] == [
        f"{told(scores[unit])} ± {told(errors[unit], signed=False)}" for unit in order
    ]
    assert seen.heads()[2] == "nats ± standard error"
    largest = abs(scores[order[0]])
    for unit, whisker in zip(order, seen.shown.locator(".whisker").all(), strict=True):
        around, own = whisker.locator("xpath=..").bounding_box(), whisker.bounding_box()
        ends = [(abs(scores[unit]) + way * errors[unit]) / largest for way in (-1, 1)]
        left, width = around["x"], around["width"]
        assert own["x"] == pytest.approx(left + width * max(0, ends[0]), abs=1.1)
        assert own["x"] + own["width"] == pytest.approx(left + width * min(1, ends[1]), abs=2.1)
    seen.hover("prompt", 3)
    assert f"{told(scores[3])} ± {told(errors[3], signed=False)} nats" in seen.readout
    seen.press("Escape")
    seen.leave()
    assert seen.heads()[2] == "nats ± standard error, at most"  # errors of outputs are added up
    noisy = findings.sampled()
    seen = opened(made(errors=np.abs(noisy.scores) * 0.6 + np.float32(0.1)))
    seen.click("output", 2)
    seen.leave()
    assert "no score is twice its standard error" in legend(seen)


def test_special_tokens_are_in_the_scale_only_where_wanted(opened) -> None:
    seen = opened(made())
    assert "<s>" not in [row[1] for row in seen.table()]
    assert seen.unit("prompt", 0).inner_text() == "<s>"
    seen.tick("special tokens in the scale")
    seen.check(made().total(), NAMES, special=())
    assert seen.table()[0][1] == "<s>"
    seen.tick("special tokens in the scale", on=False)
    seen.check(made().total(), NAMES)
    assert (
        opened(made(units=findings.units_of(findings.PIECES)[1:], scores=made().scores[:, 1:]))
        .control("special tokens")
        .count()
        == 0
    )


@pytest.mark.parametrize("width", [1000, 390])
def test_pointing_moves_no_text(opened, new_page, width) -> None:
    """What is under the pointer stays there, whatever the legend has to say about it."""
    scores = made().scores.copy()
    scores[1] *= 0.05 / abs(scores[1, 1:]).max()
    seen = opened(made(scores=scores), page=new_page(viewport={"width": width, "height": 900}))
    seen.middle("output", 1)
    places = {}
    for output in (0, 1, 2, 4, 9):
        seen.hover("output", output)
        places[output] = seen.box("output").bounding_box()
    assert len({tuple(place.values()) for place in places.values()}) == 1, places
    for unit in (1, 4, 7):
        seen.hover("prompt", unit)
        places[unit] = seen.box("prompt").bounding_box()
    assert len({tuple(places[unit].values()) for unit in (1, 4, 7)}) == 1, places


# Finding one's way


def test_the_threshold_hides_what_is_below(opened) -> None:
    seen = opened(made())
    limit = fit([float(score) for score in made().total()[1:]]).limit
    slider = seen.shown.get_by_role("slider", name="threshold")
    slider.focus()
    seen.press("PageUp", "PageUp", "PageUp", "ArrowRight")
    value = float(slider.input_value()) / 100
    assert value > 0
    seen.check(made().total(), NAMES, threshold=value)
    assert f"below {told(limit * value, signed=False)} not coloured" in legend(seen)


@pytest.mark.slow
def test_the_list_leads_to_the_place(opened) -> None:
    seen = opened(findings.long())
    box = seen.box("prompt")
    assert box.evaluate("box => box.scrollTop") == 0
    seen.shown.get_by_role("button", name="word1500", exact=True).click()
    seen.page.wait_for_timeout(100)
    seen.settle()
    assert seen.marked("visited") == [1501]
    inside, around = seen.unit("prompt", 1501).bounding_box(), box.bounding_box()
    assert around["y"] <= inside["y"] <= around["y"] + around["height"]
    assert seen.page.evaluate("document.activeElement.dataset.group") == "1501"


@pytest.mark.slow
def test_hits_by_key_and_button(opened) -> None:
    seen = opened(findings.long())
    hits = [unit for unit, shade in enumerate(seen.shades("prompt")) if shade]
    assert hits == [41, 42, 45, 1501, 1502, 1505, 2981, 2982, 2985]
    seen.unit("prompt", 0).focus()
    visited = []
    for key in ("n", "n", "n", "n", "p", "p"):
        seen.press(key)
        visited += seen.marked("visited")
    assert visited == [41, 42, 45, 1501, 45, 42]
    seen.press("p", "p")
    assert seen.marked("visited") == [2985]  # around
    seen.shown.get_by_role("button", name="next hit").click()
    seen.settle()
    assert seen.marked("visited") == [41]
    seen.shown.get_by_role("button", name="previous hit").click()
    seen.settle()
    assert seen.marked("visited") == [2985]


@pytest.mark.slow
def test_search(opened) -> None:
    seen = opened(made())
    seen.unit("prompt", 0).focus()
    seen.press("/")
    assert seen.page.evaluate("document.activeElement.type") == "search"
    seen.page.keyboard.type("aNN")
    seen.settle()
    assert seen.marked("found") == [1, 17]
    assert "2 places" in seen.text(".count")
    visited = []
    for key in ("Enter", "Enter", "Enter", "Shift+Enter"):
        seen.press(key)
        visited += seen.marked("visited")
    assert visited == [1, 17, 1, 17]
    assert seen.page.evaluate("document.activeElement.type") == "search"  # typing goes on
    seen.page.keyboard.type(" has")
    seen.settle()
    assert seen.marked("found") == [1, 2]
    assert "1 place" in seen.text(".count")
    seen.page.keyboard.type("te")
    seen.settle()
    assert seen.marked("found") == []
    assert "0 places" in seen.text(".count")
    seen.press("Escape")
    assert seen.marked("found") == []
    assert seen.text(".count").strip() == ""
    seen.page.keyboard.type("red apples")  # over several units
    seen.settle()
    assert seen.marked("found") == [4, 5, 6]
    seen.choose("prompt by", "word")
    assert len(seen.marked("found")) == 2


def test_search_finds_the_place_whatever_the_letters(opened) -> None:
    pieces = ("İstanbul", " İİİ", " Ann", " has", " it")
    seen = opened(made(pieces, scores=np.ones((10, 6), np.float32), output_scores=None))
    seen.shown.get_by_role("searchbox").fill("ann")
    seen.settle()
    assert seen.marked("found") == [3]


def test_a_prompt_that_turns_out_short_has_no_minimap(opened) -> None:
    """Heights of lines that were not in sight are guesses: a box that they made too tall is not held up by its map."""
    seen = opened(made())
    box, chart = seen.box("prompt"), seen.shown.locator(".map")
    height = box.evaluate("box => box.clientHeight")
    box.evaluate("box => box.firstElementChild.style.paddingBottom = '3000px'")
    chart.wait_for(state="visible")
    seen.settle()
    assert chart.evaluate("map => map.clientHeight") == box.evaluate("box => box.offsetHeight")
    box.evaluate("box => box.firstElementChild.style.paddingBottom = ''")
    chart.wait_for(state="hidden")
    assert box.evaluate("box => box.clientHeight") == height


@pytest.mark.slow
def test_the_minimap_is_there_for_long_prompts_and_leads(opened) -> None:
    assert not opened(made()).shown.locator(".map").is_visible()
    seen = opened(findings.long())
    chart = seen.shown.locator(".map")
    assert chart.is_visible()
    around = chart.bounding_box()
    # Supports are drawn from the left edge.
    drawn = chart.evaluate(
        """map => [...Array(map.height).keys()]
            .filter(y => map.getContext("2d").getImageData(4, y, 1, 1).data[2] > 100)
            .map(y => (y * map.clientHeight) / map.height)"""
    )
    middle = min(drawn, key=lambda y: abs(y - around["height"] / 2))
    assert abs(middle / around["height"] - 0.5) < 0.1  # word1500 of 3,000
    seen.page.mouse.click(around["x"] + 5, around["y"] + middle)
    seen.settle()
    box = seen.box("prompt").bounding_box()
    assert box["y"] <= seen.unit("prompt", 1501).bounding_box()["y"] <= box["y"] + box["height"]
    seen.page.mouse.move(around["x"] + 5, around["y"] + around["height"] / 2)
    seen.page.mouse.down()
    seen.page.mouse.move(around["x"] + 5, around["y"] + around["height"] - 1)
    seen.page.mouse.up()
    seen.settle()
    assert box["y"] <= seen.unit("prompt", 2990).bounding_box()["y"] <= box["y"] + box["height"]


def test_arcs_on_demand(opened) -> None:
    seen = opened(findings.paired())
    arcs = seen.shown.locator(".arcs path")
    assert arcs.count() == 0
    seen.tick("pairs as arcs")
    assert arcs.evaluate_all("all => all.map(each => each.getAttribute('class'))") == ["for", "against"]
    widths = [float(each.get_attribute("stroke-width")) for each in arcs.all()]
    assert widths == pytest.approx([4, 2.5])
    ends = arcs.first.evaluate(
        "path => [path.getPointAtLength(0), path.getPointAtLength(path.getTotalLength())].map(at => [at.x, at.y])"
    )
    frame = seen.box("prompt").bounding_box()
    for unit, (across, down) in zip((3, 17), ends, strict=True):
        place = seen.unit("prompt", unit).bounding_box()
        assert abs(frame["x"] + across - place["x"] - place["width"] / 2) < 3
        assert abs(frame["y"] + down - place["y"]) < 3
    seen.choose("prompt by", "word")
    assert arcs.count() == 2
    seen.tick("pairs as arcs", on=False)
    assert arcs.count() == 0
    assert opened(made()).control("pairs").count() == 0


def test_the_numbers_of_pairs_can_be_read(opened) -> None:
    seen = opened(findings.paired())
    seen.tick("pairs as arcs")
    assert "+1.400" in seen.shown.locator(".attribution").inner_text()
    seen.click("output", 2)
    seen.leave()
    assert "+0.500" in seen.shown.locator(".attribution").inner_text()


# What can be taken away


def saved(seen, button: str) -> tuple[str, str]:
    with seen.page.expect_download() as download:
        seen.shown.get_by_role("button", name=button).click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes().decode("utf-8-sig")


def test_the_list_is_saved_as_csv(opened) -> None:
    found = findings.sampled()
    seen = opened(found)
    seen.click("output", 2)
    seen.leave()
    name, content = saved(seen, "save list as CSV")
    assert name == "attribution.csv"
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert list(rows[0]) == ["rank", "name", "role", "score", "error", "share", "cumulative"]
    order = sorted(range(1, 20), key=lambda unit: -abs(found.scores[2, unit]))
    assert [row["name"] for row in rows] == [NAMES[unit] for unit in order]
    assert [float(row["score"]) for row in rows] == pytest.approx([found.scores[2, unit] for unit in order])
    assert [float(row["error"]) for row in rows] == pytest.approx([found.errors[2, unit] for unit in order])
    assert float(rows[-1]["cumulative"]) == pytest.approx(1)


def test_a_spreadsheet_runs_nothing(opened) -> None:
    hostile = ("=1+1", " @SUM(A1)", ' -2+cmd|"x"!A1', " +3", " a,b", ' "q"')
    seen = opened(made(hostile, scores=findings.numbers(10, 7), output_scores=None))
    _, content = saved(seen, "save list as CSV")
    names = {row["name"] for row in csv.DictReader(io.StringIO(content, newline=""))}
    assert names == {"'=1+1", "'@SUM(A1)", '\'-2+cmd|"x"!A1', "'+3", "a,b", '"q"'}


def test_everything_is_saved_as_json(opened) -> None:
    seen = opened(made())
    name, content = saved(seen, "save JSON")
    assert name == "attribution.json"
    expected = findings.view_of(made())._payload
    assert json.loads(content) == json.loads(json.dumps(expected))


def test_what_was_chosen_is_copied(opened) -> None:
    seen = opened(made())
    seen.page.evaluate(
        "document.addEventListener('copy', event => window.copied = event.clipboardData.getData('text/plain'))"
    )
    seen.drag("output", 2, 4)
    seen.hover("output", 8)  # only previewed
    seen.press("Control+c")
    assert seen.page.evaluate("window.copied").strip() == "3 apples"
    seen.drag("prompt", 3, 6)
    seen.press("Control+c")
    assert seen.page.evaluate("window.copied").strip() == "3 red apples"


def test_the_footer_says_where_numbers_come_from(opened) -> None:
    footer = " ".join(opened(made()).text("footer").split())
    for said in ("leave_one_out", "window", "logprob", "delete", "7", "made", "abc123", "Made", "float32", "0.1.0"):
        assert said in footer
    assert "20 forward" in footer


def test_themes(opened, new_page) -> None:
    seen = opened(made())
    paper = "() => getComputedStyle(document.querySelector('.attribution')).backgroundColor"
    assert seen.page.evaluate(paper) == "rgb(255, 255, 255)"
    seen.choose("theme", "dark")
    dark = seen.page.evaluate(paper)
    assert dark == "rgb(20, 22, 26)"
    seen.choose("theme", "")
    assert seen.page.evaluate(paper) == "rgb(255, 255, 255)"
    seen = opened(made(), page=new_page(color_scheme="dark"))
    assert seen.page.evaluate(paper) == dark
    seen.choose("theme", "light")
    assert seen.page.evaluate(paper) == "rgb(255, 255, 255)"
