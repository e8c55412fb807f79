"""Other findings in the view, the view in a notebook's frame, and in a page of one's own."""

from __future__ import annotations

import csv
import io
import json
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from attribution.views.web.payload import result_payload
from tests import findings
from tests.findings import NAMES, made
from tests.seen import STEPS, Seen, open_finding, open_module, step, told
from tests.test_view_controls import legend, saved

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(demo) -> dict[str, Any]:
    """What each experiment finds about a question."""
    return findings.experiments(demo)


@pytest.fixture
def opened(show):
    """Shows results of one question, or another finding."""
    return lambda *found, **options: open_finding(show, *found, **options)


# Two results


def test_two_results_on_one_scale(opened, found) -> None:
    comparison = found["comparison"]
    seen = opened(comparison)
    sides = comparison.first, comparison.second
    totals = [[float(score) for score in side.total()] for side in sides]
    ordinary = [[u for u, unit in enumerate(side.units) if not unit.special] for side in sides]
    limit = max(abs(total[u]) for total, units in zip(totals, ordinary, strict=True) for u in units)
    legends = seen.shown.locator(".legend").all_inner_texts()
    assert all(f"{told(limit)} for" in " ".join(each.split()) for each in legends)
    for place in (0, 1):
        expected = [step(score, limit) if u in ordinary[place] else 0 for u, score in enumerate(totals[place])]
        assert seen.shades("prompt", place) == expected
    pairs = [pair for pair in comparison.pairs if not pair.special and pair.difference]
    pairs.sort(key=lambda pair: -abs(pair.difference))
    expected = [told(pair.difference) for pair in pairs if abs(pair.difference) >= limit / 100][:25]
    assert [row[5] for row in seen.table()] == expected
    first = next(pair for pair in pairs if pair.first is not None and pair.second is not None)
    seen.hover("prompt", first.first)
    assert seen.marked("partner", "prompt", 1) == [first.second]
    seen.leave()
    assert seen.marked("partner", "prompt", 1) == []
    seen.hover("prompt", first.second, 1)
    assert seen.marked("partner", "prompt", 0) == [first.first]


def test_a_part_of_one_output_beside_the_other(opened, found) -> None:
    comparison = found["comparison"]
    seen = opened(comparison)
    seen.click("output", 1, 1)
    seen.leave()
    assert seen.marked("selected", "output", 1) == [1]
    assert seen.marked("selected", "output", 0) == []
    limit = max(float(abs(comparison.first.total()[1:]).max()), float(abs(comparison.second.total(1)[1:]).max()))
    scores = comparison.second.total(1)
    special = [unit.special for unit in comparison.second.units]
    expected = [0 if own else step(float(score), limit) for score, own in zip(scores, special, strict=True)]
    assert seen.shades("prompt", 1) == expected
    largest = max(
        (p for p in comparison.pairs if not p.special),
        key=lambda p: abs(_at(scores, p.second) - _at(comparison.first.total(), p.first)),
    )
    difference = _at(scores, largest.second) - _at(comparison.first.total(), largest.first)
    assert seen.table()[0][5] == told(difference)
    seen.press("Escape")
    seen.tick("lock scale")
    seen.click("output", 0, 0)
    seen.leave()
    assert all("scale locked" in each for each in seen.shown.locator(".notes").all_inner_texts())


def _at(scores: np.ndarray, unit: int | None) -> float:
    return 0.0 if unit is None else float(scores[unit])


def test_different_units_have_a_scale_each(opened, found) -> None:
    seen = opened(found["shares"])
    first, second = (" ".join(each.split()) for each in seen.shown.locator(".legend").all_inner_texts())
    assert "nats" in first
    assert "without sign" in second
    assert max(map(abs, seen.shades("prompt", 0))) >= STEPS
    assert max(map(abs, seen.shades("prompt", 1))) >= STEPS
    assert "share of the strongest" in " ".join(seen.heads())
    if seen.control("lock scale").count():
        seen.tick("lock scale")
        seen.click("output", 1)
        seen.leave()
        after = " ".join(seen.shown.locator(".legend").nth(1).inner_text().split())
        assert after.startswith(second[: second.index("without sign")])


def test_differences_are_saved(opened, found) -> None:
    seen = opened(found["comparison"])
    _, content = saved(seen, "save list as CSV")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    expected = sorted((abs(pair.difference) for pair in found["comparison"].pairs if not pair.special), reverse=True)
    assert [abs(float(row["difference"])) for row in rows] == pytest.approx(expected, abs=1e-5)


# Experiments


def test_a_verdict(opened, found) -> None:
    verification = found["verification"]
    seen = opened(verification)
    assert verification.verdict in seen.text(".verdict strong")
    assert seen.marked("verified") == list(verification.strongest)
    rows = seen.table(".verdict table")
    assert [row[1] for row in rows] == [told(verification.removed.effect), told(verification.alone.effect)]
    assert [row[4] for row in rows] == [f"{verification.removed.p:.3f}", f"{verification.alone.p:.3f}"]
    for number in (verification.full, verification.nothing):
        assert told(number) in seen.text(".verdict")
    seen.choose("prompt by", "sentence")
    assert len(seen.marked("verified")) == 1
    assert seen.box("prompt").locator(".verified").first.evaluate("u => getComputedStyle(u).outlineStyle") == "dashed"


def test_edits_are_shown_in_place(opened, found) -> None:
    whatif = found["whatif"]
    seen = opened(whatif)
    rows = seen.table(".variants table")
    assert [row[2] for row in rows[1:]] == [told(variant.change) for variant in whatif.variants]
    assert seen.box("prompt").inner_text() == findings.QUESTION
    seen.shown.locator(".variants button").nth(1).click()
    edited = seen.shown.locator(".edited")
    assert edited.inner_text() == findings.QUESTION.replace("3", "37", 1)  # what went, and what came
    assert edited.locator("del").all_inner_texts() == ["3"]
    assert edited.locator("ins").all_inner_texts() == ["7"]
    assert seen.shown.locator(".variants button").nth(1).get_attribute("aria-pressed") == "true"
    assert not seen.box("prompt").is_visible()
    seen.shown.locator(".variants button").nth(2).click()
    assert edited.locator("del").inner_text().strip() == "Tom"
    seen.shown.locator(".variants button").nth(0).click()
    assert not edited.is_visible()
    assert seen.box("prompt").text_content() == findings.QUESTION
    # Nothing has a score here: what is clicked and typed must do no harm.
    seen.shown.locator(".panel > .text").click()
    seen.press("ArrowRight", "n", "/", "Escape")
    assert "logprob" in seen.text("footer")


def test_counterfactuals_lead_back_to_the_prompt(opened, found) -> None:
    counterfactuals = found["counterfactuals"]
    seen = opened(counterfactuals)
    assert len(seen.table(".variants table")) == 1 + len(counterfactuals.found)
    seen.shown.locator(".variants button").nth(1).click()
    assert seen.shown.locator(".edited ins").count()
    seen.shown.locator(".list td button").first.click()
    seen.settle()
    assert not seen.shown.locator(".edited").is_visible()
    assert seen.unit("prompt", seen.marked("visited")[0]).is_visible()
    assert seen.shown.locator(".variants button").first.get_attribute("aria-pressed") == "true"


# Elsewhere


def test_the_view_works_in_a_notebook(show, page) -> None:
    shown = made().html_view().notebook() + findings.unsigned().html_view().notebook()
    show(f'<!doctype html><html lang="en"><meta charset="utf-8"><title>n</title>{shown}', page)
    assert page.locator("iframe").count() == 2
    for _ in range(100):
        if len(page.frames) == 3 and all(frame.locator(".legend .bar").count() for frame in page.frames[1:]):
            break
        page.wait_for_timeout(50)
    first, second = (Seen(frame) for frame in page.frames[1:])
    first.click("output", 2)
    page.mouse.move(0, 0)
    first.settle()
    first.check(made().total(2), NAMES)
    assert second.marked("selected", "output") == []
    second.click("prompt", 3)
    assert second.marked("selected") == [3]
    assert first.marked("selected") == []
    with page.expect_download() as download:
        page.frames[1].get_by_role("button", name="save JSON").click()
    assert download.value.suggested_filename == "attribution.json"
    assert not page.locator("pre").first.is_visible()  # the summary, for where there is no frame


EMPTY = '<!doctype html><html lang="en"><meta charset="utf-8"><title>own</title><body></body></html>'


def module() -> str:
    return files("attribution.views").joinpath("view.js").read_text("utf-8")


def payload(result) -> dict[str, Any]:
    return json.loads(json.dumps(result_payload([result.to_dict()], range(len(result.outputs)))))


def test_several_views_share_a_page(show, page) -> None:
    page.emulate_media(reduced_motion="reduce")  # nothing moves while it is clicked on
    show(EMPTY, page)
    for result in (made(), findings.unsigned()):
        open_module(page, module(), payload(result))
    seen = Seen(page)
    seen.click("output", 2, 1)
    seen.leave()
    assert seen.marked("selected", "output", 1) == [2]
    assert seen.marked("selected", "output", 0) == []
    identities = page.locator("[id]").evaluate_all("all => all.map(each => each.id)")
    assert len(identities) == len(set(identities))
    seen.press("n")
    assert seen.marked("visited", "prompt", 1)
    assert not seen.marked("visited", "prompt", 0)
    page.evaluate("window.views[0].close()")
    seen.settle()
    assert page.locator(".panel").count() == 1
    seen.hover("output", 3)  # what stood above is gone: brings it into sight
    seen.click("output", 3)
    assert seen.marked("selected", "output", 0) == [3]


def test_scores_of_a_part_are_asked_for(show, page) -> None:
    show(EMPTY, page)
    answer = [float(score) for score in made().scores[5]]
    open_module(
        page,
        module(),
        payload(findings.whole()),
        f"""{{ requestSpan: async (asked) => {{
            (window.asked ??= []).push(asked.outputs.join());
            if (asked.outputs.includes(9)) throw new Error('no <b>budget</b>');
            return {{ scores: Float32Array.from({json.dumps(answer)}) }};
        }} }}""",
    )
    seen = Seen(page)
    seen.hover("output", 3)
    seen.leave()
    assert page.evaluate("window.asked ?? []") == []  # an expensive question: only what is chosen
    seen.drag("output", 2, 3)
    seen.leave()
    assert page.evaluate("window.asked") == ["2,3"]
    seen.check(answer, NAMES)
    seen.press("Escape")
    seen.check(findings.whole().total(), NAMES)
    seen.drag("output", 3, 2)
    seen.leave()
    seen.check(answer, NAMES)
    assert page.evaluate("window.asked") == ["2,3"]  # it is kept
    for _ in range(2):  # what failed can be asked again
        seen.click("output", 9)
        seen.leave()
        assert "no <b>budget</b>" in page.locator("main").inner_text()
        seen.press("Escape")
    assert page.evaluate("window.asked") == ["2,3", "9", "9"]


def test_an_output_as_a_whole(opened) -> None:
    seen = opened(findings.whole())
    seen.click("output", 3)
    seen.leave()
    seen.check(findings.whole().total(), NAMES)
    assert "as a whole" in legend(seen)


@pytest.mark.parametrize(
    ("changes", "said"), [({"version": 2}, "version 1 at most, got 2"), ({"format": "x"}, "expected a payload of")]
)
def test_a_payload_that_is_not_known_is_refused(show, page, changes, said) -> None:
    from playwright.sync_api import Error

    show(EMPTY, page)
    with pytest.raises(Error, match=said):
        open_module(page, module(), payload(made()) | changes)


def test_the_module_is_small_and_alone() -> None:
    source = module()
    assert len(source.encode()) < 60 * 1024
    assert "import " not in source
    for powerful in ("innerHTML", "outerHTML", "insertAdjacent", "eval(", "document.write", "fetch("):
        assert powerful not in source


def test_halves_and_bytes_are_read(show, page) -> None:
    """Numbers of 16 and of 8 bits say the same, to what they can hold."""
    for words, outputs, off in ((400, 200, 0.2), (5_100, 200, 2)):
        scores = np.zeros((outputs, words + 1), np.float32)
        scores[:, 7], scores[:, 9] = 2, -1
        pieces = [f"w{index} " for index in range(words)]
        seen = open_finding(show, made(pieces, [" o"] * outputs, scores=scores, output_scores=None), page=page)
        assert seen.table()[0][2] == told(2 * outputs)  # the strongest is exact
        assert float(seen.table()[1][2].replace("−", "-")) == pytest.approx(-outputs, abs=off)
