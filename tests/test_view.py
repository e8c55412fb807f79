"""The view in a browser: what a person points at, chooses and types is answered with the numbers of the result."""

from __future__ import annotations

import numpy as np
import pytest

from attribution.views.scale import fit
from tests import findings
from tests.findings import NAMES, made
from tests.seen import STEPS, open_finding, step, told


@pytest.fixture
def opened(show):
    """Shows results of one question, or another finding."""
    return lambda *found, **options: open_finding(show, *found, **options)


def summed(scores: np.ndarray, owners: list[int]) -> list[float]:
    """Scores of groups: the sum of those of each."""
    groups = sorted(set(owners))
    return [sum(float(s) for s, o in zip(scores, owners, strict=True) if o == group) for group in groups]


# Choosing


def test_at_first_the_whole_output_is_asked_about(opened) -> None:
    seen = opened(made())
    seen.check(made().total(), NAMES)
    assert seen.caption == "Strongest for the whole output"
    assert seen.marked("selected", "output") == []


def test_texts_keep_their_layout(opened) -> None:
    seen = opened(made())
    lines = seen.box("prompt").locator(".line").all_inner_texts()
    assert lines == ["<s>Ann has 3 red apples.⏎", "Bob has 5.⏎", "⏎", "How many does Ann have?"]
    assert seen.box("output").locator(".line").all_inner_texts() == ["Ann has 3 apples.⏎", "Bob 5."]


def test_it_opens_with_what_was_asked_for(opened) -> None:
    seen = opened(made(), outputs=[2, 3])
    assert seen.marked("selected", "output") == [2, 3]
    seen.check(made().total([2, 3]), NAMES)


def test_a_click_on_an_output_shades_the_prompt_for_it(opened) -> None:
    seen = opened(made())
    for output, name in ((2, "3"), (8, "5")):
        seen.click("output", output)
        seen.leave()
        assert seen.marked("selected", "output") == [output]
        assert seen.unit("output", output).get_attribute("aria-selected") == "true"
        assert seen.caption == f"Strongest for ‘{name}’"
        seen.check(made().total(output), NAMES)
    assert seen.unit("output", 2).get_attribute("aria-selected") == "false"
    assert "Strongest for ‘5’: " in seen.text(".live")


def test_earlier_outputs_are_shaded_for_a_later_one(opened) -> None:
    seen = opened(made())
    seen.click("output", 4)
    seen.leave()
    counted = made().scores[4][1:]
    limit = fit(list(map(float, counted))).limit
    assert seen.shades("output") == [step(score, limit) for score in made().output_scores[4]]
    assert "earlier tokens by what they did" in seen.text(".panel h2 small")


def test_dragging_chooses_several_either_way(opened) -> None:
    seen = opened(made())
    for first, last in ((1, 3), (4, 2), (3, 8)):
        seen.drag("output", first, last)
        seen.leave()
        chosen = list(range(min(first, last), max(first, last) + 1))
        assert seen.marked("selected", "output") == chosen
        seen.check(made().total(chosen), NAMES)


def test_shift_extends(opened) -> None:
    seen = opened(made())
    seen.click("output", 2)
    seen.click("output", 5, shift=True)
    seen.leave()
    assert seen.marked("selected", "output") == [2, 3, 4, 5]
    seen.click("output", 0, shift=True)
    seen.leave()
    assert seen.marked("selected", "output") == [0, 1, 2]
    seen.check(made().total([0, 1, 2]), NAMES)


def test_escape_lets_go(opened) -> None:
    seen = opened(made())
    seen.click("output", 2)
    seen.press("Escape")
    seen.leave()
    assert seen.marked("selected", "output") == []
    seen.check(made().total(), NAMES)
    seen.click("prompt", 3)
    seen.shown.get_by_role("button", name="whole output").click()
    seen.leave()
    assert seen.marked("selected") == []
    seen.check(made().total(), NAMES)


def test_pointing_previews_and_leaving_restores(opened) -> None:
    seen = opened(made())
    seen.click("output", 2)
    seen.hover("output", 5)
    assert seen.marked("selected", "output") == [5]
    seen.check(made().total(5), NAMES)
    seen.leave()
    assert seen.marked("selected", "output") == [2]
    seen.check(made().total(2), NAMES)


def test_the_other_way_round(opened) -> None:
    seen = opened(made())
    strongest = float(np.abs(made().scores[:, 1:]).max())
    seen.click("prompt", 3)
    seen.leave()
    assert seen.marked("selected") == [3]
    did = made().scores[:, 3]
    assert seen.shades("output") == [step(score, strongest) for score in did]
    assert f"strongest colour {told(strongest, signed=False)} nats: what ‘3’ did for each" in seen.text("h2 small")
    assert seen.caption == "What ‘3’ did for each part of the output"
    largest = max(abs(did))
    ranked = sorted((s for s in did if abs(s) >= largest / 100), key=lambda s: -abs(s))
    assert [row[2] for row in seen.table()] == [told(s) for s in ranked]
    seen.drag("prompt", 3, 5)
    seen.leave()
    assert seen.shades("output") == [step(score, strongest) for score in made().scores[:, 3:6].sum(1)]
    seen.hover("output", 2)
    assert told(float(made().scores[2, 3:6].sum())) in seen.readout
    seen.click("output", 2)
    seen.leave()
    assert seen.marked("selected") == []  # another question


def test_what_is_pointed_at_is_told(opened) -> None:
    seen = opened(made())
    seen.hover("prompt", 17)
    assert seen.readout.startswith("Ann (2 of 2)")
    assert f"{told(made().total()[17])} nats" in seen.readout
    seen.hover("output", 1)
    for said in ("has", "probability 30.0% (−1.204 nats)", "instead: ‘ else’ 20.0%, ‘’ 5.0%"):
        assert said in seen.readout
    seen.leave()
    assert seen.readout.startswith("Point at a part")


def test_the_output_is_shaded_by_probability(opened) -> None:
    seen = opened(made())
    likely = [np.exp(output.logprob) for output in made().outputs]
    assert seen.shades("output") == [int((1 - p) * STEPS + 0.5) for p in likely]
    assert "the less probable, the darker" in seen.text("h2 small")


def test_a_probability_that_is_not_known_is_not_certainty(opened) -> None:
    seen = opened(findings.without(made(), 1))
    seen.hover("output", 1)
    assert "100" not in seen.readout
    seen.leave()
    assert seen.shades("output")[1] != 0


# Dividing


def test_granularities_keep_the_selection_and_the_sums(opened) -> None:
    seen = opened(made())
    seen.click("output", 3)
    seen.leave()
    total = made().total(3)
    for name in ("word", "sentence", "line", "paragraph"):
        seen.choose("prompt by", name)
        owners = [0, *(1 + unit.inside[name] for unit in made().units[1:])]
        scores = summed(total, owners)
        limit = fit(scores[1:]).limit
        assert seen.shades("prompt") == [0, *(step(score, limit) for score in scores[1:])], name
        assert sorted(row[2] for row in seen.table()) == sorted(
            told(score) for score in scores[1:] if abs(score) >= max(map(abs, scores[1:])) / 100
        )
        assert seen.marked("selected", "output") == [3]
        assert f"each {name}: sum of its tokens" in seen.text(".notes")
    seen.choose("prompt by", "token")
    seen.check(total, NAMES)


def test_outputs_by_words_and_back(opened) -> None:
    seen = opened(made())
    seen.click("output", 3)
    seen.choose("output by", "word")
    seen.leave()
    assert seen.marked("selected", "output") == [3]  # "apples", of two tokens
    assert seen.caption == "Strongest for ‘apples’"
    seen.check(made().total([3, 4]), NAMES)
    seen.click("output", 3)
    seen.choose("output by", "token")
    seen.leave()
    assert seen.marked("selected", "output") == [3, 4]
    seen.click("output", 0)
    seen.choose("output by", "line")
    seen.leave()
    seen.check(made().total(range(7)), NAMES)


def test_ways_to_put_tokens_together(opened) -> None:
    seen = opened(made())
    seen.choose("prompt by", "line")
    total = made().total()
    owners = [0, *(1 + unit.inside["line"] for unit in made().units[1:])]
    lines = [[float(s) for s, o in zip(total, owners, strict=True) if o == line] for line in sorted(set(owners))[1:]]
    for way, put, said in (
        ("mean", lambda own: sum(own) / len(own), "mean per token"),
        ("max", lambda own: max(own, key=abs), "strongest"),
        ("sum", sum, "sum"),
    ):
        seen.choose("as", way)
        scores = [put(own) for own in lines]
        assert seen.shades("prompt") == [0, *(step(score, fit(scores).limit) for score in scores)]
        assert [row[2] for row in seen.table()] == [told(s) for s in sorted(scores, key=lambda s: -abs(s))]
        assert f"each line: {said} of its tokens" in seen.text(".notes")


def test_the_error_of_the_strongest_is_its_own(opened) -> None:
    found = findings.sampled()
    seen = opened(found, outputs=[2])
    seen.choose("prompt by", "paragraph")
    seen.choose("as", "max")
    owners = [0, *(1 + unit.inside["paragraph"] for unit in found.units[1:])]
    expected = []
    for group in (1, 2):
        unit = max((u for u in range(20) if owners[u] == group), key=lambda u: abs(found.scores[2, u]))
        expected.append(f"{told(found.scores[2, unit])} ± {told(found.errors[2, unit], signed=False)}")
    assert {row[2] for row in seen.table()} == set(expected)


def test_extending_after_another_granularity(opened) -> None:
    seen = opened(made())
    seen.click("output", 7)  # "Bob"
    seen.choose("output by", "word")
    seen.click("output", 7, shift=True)  # "5", two words on
    seen.leave()
    words = [output.inside["word"] for output in made().outputs]
    assert seen.marked("selected", "output") == list(range(words[7], 8))


def test_messages_and_names(opened) -> None:
    found = findings.chat()
    seen = opened(found)
    assert seen.shown.locator(".message .role").all_inner_texts() == ["user", "assistant", "user"]
    assert seen.shown.locator(".message").nth(1).inner_text().split() == ["assistant", "Good!"]
    total = found.total()
    ordinary = [unit for unit in range(13) if not found.units[unit].special]
    seen.choose("prompt by", "message")
    messages = [float(sum(total[u] for u in ordinary if found.units[u].message == message)) for message in range(3)]
    assert sorted(row[3] for row in seen.table()) == sorted(map(told, messages))
    assert {row[2] for row in seen.table()} == {"user", "assistant"}
    seen.choose("prompt by", "named")
    rows = {row[1]: row[3] for row in seen.table()}
    assert rows["count"] == told(float(total[4] + total[5]))
    assert rows["who"] == told(float(total[2]))


def test_the_mean_is_of_what_is_summed(opened) -> None:
    """What a template wrote within a message is in neither the sum nor the number of tokens."""
    found = findings.chat()
    units = list(found.units)
    inside = {unit.inside["line"] for unit in units[1:]}
    seen = opened(found)
    seen.choose("prompt by", "line")
    seen.choose("as", "mean")
    total = found.total()
    expected = []
    for line in inside:
        own = [u for u in range(1, 13) if units[u].inside["line"] == line and not units[u].special]
        if own:
            expected.append(float(sum(total[u] for u in own)) / len(own))
    assert sorted(row[3] for row in seen.table()) == sorted(map(told, expected))


def test_methods_can_be_switched(opened) -> None:
    seen = opened(made(), findings.unsigned())
    seen.click("output", 2)
    seen.leave()
    assert "Leave" not in seen.caption
    method = seen.control("method")
    assert method.locator("option").all_inner_texts() == ["leave_one_out (logprob)", "saliency (logprob)"]
    method.select_option("1")
    seen.settle()
    scores = findings.unsigned().total(2)
    limit = fit([float(score) for score in scores[1:]]).limit
    assert seen.shades("prompt") == [0, *(step(score, limit) for score in scores[1:])]
    assert seen.marked("selected", "output") == [2]
    legend = " ".join(seen.text(".legend").split())
    assert legend.startswith("0 ")
    assert f"{told(limit, signed=False)} nats per unit of embedding, without sign" in legend
    assert "against" not in legend
    assert seen.shown.locator(".legend .bar span").count() == STEPS + 1
    assert "saliency" in seen.text("footer")
    method.select_option("0")
    seen.settle()
    seen.check(made().total(2), NAMES)
