"""How a terminal view ends its scale, folds what is long, and fits whatever is written into its columns."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from rich.cells import cell_len

from attribution.experiments.comparison import compare
from attribution.result import Attribution, Output
from attribution.views.terminal.comparison import ComparisonView
from attribution.views.terminal.console import plain
from attribution.views.terminal.result import TextView
from attribution.views.words import visible
from tests.test_comparison import of_words
from tests.test_result import result
from tests.test_views import coloured


def view(shown: Attribution, outputs: list[int] | None = None, **options) -> TextView:
    return TextView(shown.to_dict(), list(range(len(shown.outputs))) if outputs is None else outputs, **options)


def many(count: int, hits: dict[int, float], **changes) -> Attribution:
    """A result of so many words, those at `hits` with these scores."""
    scores = [hits.get(index, 0.0) for index in range(count)]
    return of_words(" ".join(f"word{index}" for index in range(count)), scores, **changes)


# The scale


def test_the_legend_has_both_ends_and_the_unit() -> None:
    assert "-4.000 ▒▒▒▒▒ 0 █████ +4.000 nats" in str(result()).splitlines()
    method = {"name": "saliency", "options": {}, "signed": False, "unit": "nats per unit of embedding"}
    assert "0 █████ 4.000 nats per unit of embedding" in str(result(method=method)).splitlines()
    assert re.search(
        r"-4\.000 (\x1b\[[0-9;]*m  \x1b\[0m){5} 0 (\x1b\[[0-9;]*m  \x1b\[0m){5} \+4\.000", coloured(result())
    )
    without = coloured(result(), no_color=True)
    assert "-4.000 \x1b[1;4;7mstrong\x1b[0m \x1b[4mweak\x1b[0m 0 \x1b[1mweak\x1b[0m \x1b[1;7mstrong\x1b[0m" in without


def test_what_lies_beyond_the_scale_is_marked() -> None:
    shown = str(many(300, dict.fromkeys(range(150), 1.0) | {7: 50.0}))
    assert "-1.000 ▒▒▒▒▒ 0 █████ +1.000 nats · beyond it ▶: 1 word" in shown
    ranked = [line for line in shown.splitlines() if line[:3].strip().isdigit()]
    assert ranked[0].split() == ["1", "+50.000", "█" * 19 + "▶", "word7"]
    assert [line.count("▶") for line in ranked] == [1] + [0] * 9
    assert "▶" not in str(result())


def test_a_weak_signal_is_said_and_not_shaded() -> None:
    weak = result(scores=result().scores * np.float32(1e-4))
    shown = str(weak)
    assert "Weak signal: nothing moves it by 0.01 nats, so nothing is coloured." in shown
    assert "4.00e-04 nats" in shown
    assert "+4.00e-04" in shown  # the numbers are there
    assert not set(shown) & set("█▒")
    for system in ("truecolor", "256", "standard"):
        assert "48;" not in coloured(weak, color_system=system)
    assert "\x1b[1;7m" not in coloured(weak.text_view(), no_color=True)
    compared = compare(of_words("a b", [1e-3, 2e-3]), of_words("a b", [2e-3, 1e-3]))
    assert "Weak signal" in str(compared)
    assert not set(str(compared)) & set("█▒")


def test_what_is_weak_beside_other_outputs_is_said() -> None:
    scores = np.array([[0, 50, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 1]], np.float32)
    shown = str(view(result(scores=scores), [1]))
    assert "Weak signal: no score is 2% of the strongest for other outputs" in shown
    assert "Weak signal" not in str(view(result(scores=scores), [0, 1]))


def test_what_is_no_more_than_its_error_is_said() -> None:
    shown = str(result(errors=np.full((3, 4), 10, np.float32)))
    assert "Weak signal: no score is twice its standard error" in shown


# Folding


def test_a_long_prompt_is_folded_around_the_hits() -> None:
    shown = many(2000, {1000: 4.0, 1500: -2.0})
    lines = plain(view(shown), 80).splitlines()
    assert len(lines) < 50
    text = "\n".join(lines)
    folded = [int(number.replace(",", "")) for number in re.findall(r"… ([\d,]+) words folded …", text)]
    assert len(folded) == 3
    prompt = text[: text.index("→")]
    assert sum(folded) + len(re.findall(r"word\d+", prompt)) == 2000
    # In their order, cut at units' edges, with context on both sides.
    written = [int(number) for number in re.findall(r"\bword(\d+)\b", prompt)]
    assert written == sorted(written)
    assert {990, 1000, 1010, 1490, 1500, 1510} <= set(written)
    assert "folded" not in plain(view(shown, full=True), 80)
    assert "word0 " in plain(view(shown, full=True), 80)
    assert "\x1b[2m… " in coloured(shown)


def test_a_prompt_that_fits_is_not_folded() -> None:
    assert "folded" not in plain(view(many(300, {100: 4.0})), 80)
    # It depends on the width.
    assert "folded" in plain(view(many(300, {100: 4.0})), 24)


def test_lines_are_kept_whole() -> None:
    shown = many(500, {250: 4.0})
    lined = dataclasses.replace(shown, prompt=shown.prompt.replace(" ", "\n"))
    lines = plain(view(lined), 80).splitlines()
    start = lines.index("… 248 words folded …")
    assert lines[start + 1 : start + 6] == ["word248", "word249", "word250", "word251", "word252"]
    assert lines[start + 6] == "… 247 words folded …"


def test_a_long_prompt_without_hits_shows_both_ends() -> None:
    text = plain(view(many(2000, {})), 80)
    assert "word0 " in text
    assert "word1999" in text
    assert re.search(r"… 1,9\d\d words folded …", text)


def test_a_token_of_ten_thousand_characters() -> None:
    words = of_words("Hi you there", [1.0, 2.0, -1.0])
    long = "x" * 10_000
    units = (
        words.units[0],
        dataclasses.replace(words.units[1], text=long, end=3 + len(long)),
        dataclasses.replace(words.units[2], start=4 + len(long), end=9 + len(long)),
    )
    shown = dataclasses.replace(words, units=units, prompt=f"Hi {long} there", outputs=(Output(long, 1, 0.0),))
    lines = plain(view(shown), 80).splitlines()
    assert "… 9,600 characters folded …" in lines
    ranked = [line for line in lines if line[:3].strip().isdigit()]
    assert len(ranked) == 3
    assert ranked[0].endswith("x…")
    assert max(map(cell_len, lines)) <= 80


def test_what_is_special_is_counted_when_folded() -> None:
    long = many(2000, {1000: 4.0})
    units = tuple(
        dataclasses.replace(unit, special=index < 3, role="template" if index < 3 else "user")
        for index, unit in enumerate(long.units)
    )
    assert re.search(
        r"… \d+ words and 3 outside the scale folded …", plain(view(dataclasses.replace(long, units=units)))
    )


def test_a_comparison_is_folded_around_the_differences() -> None:
    compared = compare(many(2000, {1000: 4.0}), many(2000, {1000: 1.0, 1200: 1.0}))
    text = plain(ComparisonView(compared.to_dict()), 80)
    assert len(re.findall(r"words folded", text)) >= 4
    assert len(text.splitlines()) < 80
    assert "folded" not in plain(ComparisonView(compared.to_dict(), full=True), 80)


# Columns


WIDE = ["日本語の文章です", "🍎🍎🍎", "e\u0301te\u0301", "क्षत्रिय", "x" * 300, "한국어" * 40, "👩\u200d👩\u200d👧"]


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_columns_stay_aligned(width: int) -> None:
    scores = [float(len(WIDE) - index) for index in range(len(WIDE))]
    words = of_words(" ".join(WIDE), scores)
    errors = np.full((1, len(WIDE)), 0.25, np.float32)
    roles = tuple(
        dataclasses.replace(unit, role="user" if index % 2 else "系统" * 9) for index, unit in enumerate(words.units)
    )
    for shown in (words, dataclasses.replace(words, errors=errors), dataclasses.replace(words, units=roles)):
        lines = plain(view(shown), width).splitlines()
        assert max(map(cell_len, lines)) <= width
        ranked = [line for line in lines if re.match(r" +\d+ +[+-]", line)]
        assert len(ranked) == len(WIDE)
        if width >= 60:
            bars = [re.match(r".*[█▒] *", line)[0] for line in ranked]
            assert len({cell_len(bar) for bar in bars}) == 1
    compared = compare(words, of_words(" ".join(WIDE), [0.0, *scores[1:]]))
    assert max(map(cell_len, plain(ComparisonView(compared.to_dict()), max(width, 60)).splitlines())) <= max(width, 60)


def test_repeated_names_are_told_apart_though_cut() -> None:
    long = "y" * 200
    lines = plain(view(of_words(f"{long} {long}", [2.0, 1.0])), 80).splitlines()
    assert [line[-12:] for line in lines if line[:3].strip().isdigit()] == ["yy… (1 of 2)", "yy… (2 of 2)"]


def test_joiners_stay_where_they_join() -> None:
    assert visible("👩\u200d👧 می\u200cخواهم") == "👩\u200d👧 می\u200cخواهم"
    assert visible("pass\u200dword \u200c") == "pass<U+200D>word <U+200C>"


# The output


def with_alternatives(alternatives: list[tuple[str, float]]) -> TextView:
    payload = of_words("a b", [1.0, 2.0], outputs=(Output(" 3", 1, math.log(0.93)),)).to_dict()
    payload["outputs"][0]["alternatives"] = [list(each) for each in alternatives]
    return TextView(payload, [0])


def test_what_might_have_been_written_instead() -> None:
    others = [(" 3", math.log(0.93)), (" 5", math.log(0.04)), (" 4", math.log(0.01)), ("\n", -9.0), (" 7", -10.0)]
    assert "  p = 0.93; instead: 5 (0.04), 4 (0.01), ⏎ (<0.01)" in str(with_alternatives(others)).splitlines()
    assert "  p = 0.93" in str(with_alternatives(others[:1])).splitlines()
    assert "p = " not in str(with_alternatives([]))
    assert "<U+202E>" in str(with_alternatives([("\u202e", -1.0)]))
    assert "\x1b[2m  p = 0.93" in coloured(with_alternatives(others))


def test_of_several_outputs_no_probability_is_told() -> None:
    payload = result().to_dict()
    for output in payload["outputs"]:
        output["alternatives"] = [["x", -1.0]]
    assert "p = " not in str(TextView(payload, [0, 1]))
    assert "p = " in str(TextView(payload, [1]))
