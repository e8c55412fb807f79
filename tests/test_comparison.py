"""Two results side by side: which units have each other's place, on which scale, and how a terminal shows it."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import sys
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

import attribution
from attribution.errors import InputError, MissingExtraError
from attribution.experiments.comparison import SHARE, Comparison, Pair, compare
from attribution.result import Attribution, Output, Unit
from attribution.views.terminal.comparison import ComparisonView
from attribution.views.terminal.console import plain
from attribution.views.terminal.shading import shade
from attribution.views.words import visible
from tests.test_result import result, whole
from tests.test_views import HOSTILE, coloured

SIGNED = {"name": "leave_one_out", "options": {}, "signed": True, "unit": "nats"}
UNSIGNED = {"name": "saliency", "options": {}, "signed": False, "unit": "nats per unit of embedding"}


def of_words(text: str, scores: list[float] | list[list[float]] | None = None, **changes) -> Attribution:
    """A result with these words as units and one output token; words in <> are special and have no characters.

    Several rows of scores are those of several output tokens, which `changes` then names.
    """
    prompt, units = "", []
    for index, word in enumerate(text.split(" ")):
        special = word.startswith("<")
        start = len(prompt)
        if not special:
            start += bool(prompt)
            prompt = f"{prompt} {word}" if prompt else word
        role = "special" if special else "prompt"
        units.append(Unit(word, start, len(prompt) if not special else start, index, index + 1, role, special))
    given = [0.0] * len(units) if scores is None else scores
    parts = {
        "scores": np.atleast_2d(np.array(given, np.float32)),
        "output_scores": None,
        "units": tuple(units),
        "outputs": (Output("3", 1, -0.5),),
        "prompt": prompt,
        "granularity": "word",
    }
    return result(**parts | changes)


def indices(comparison: Comparison) -> list[tuple[int | None, int | None]]:
    return [(pair.first, pair.second) for pair in comparison.pairs]


def texts(comparison: Comparison) -> list[tuple[str, str | None, str | None]]:
    return [(pair.kind, pair.text_first, pair.text_second) for pair in comparison.pairs]


# Which units have each other's place


def test_one_word_for_another() -> None:
    first = of_words("How many apples does Sam have ?", [0, 0, 4, 0, 1, 0, 0])
    second = of_words("How many oranges does Sam have ?", [0, 0, -2, 0, 1.5, 0, 0])
    compared = compare(first, second)
    assert indices(compared) == [(i, i) for i in range(7)]
    assert [pair.kind for pair in compared.pairs] == ["same"] * 2 + ["changed"] + ["same"] * 4
    assert compared.pairs[2] == Pair(2, 2, "apples", "oranges", 4.0, -2.0, "changed")
    assert [pair.difference for pair in compared.differences][:3] == [-6.0, 0.5, 0.0]
    assert (compared.scale, compared.unit, compared.share) == (4.0, "nats", False)
    assert compared.first is first
    assert compared.second is second


def test_units_are_told_apart_by_place() -> None:
    """The second "Sam" of one prompt pairs with the second "Sam" of the other, whatever stands between."""
    compared = compare(of_words("Sam has 3 . Has Sam 3 ?"), of_words("Sam has 3 . And has Sam 5 ?"))
    assert texts(compared) == [
        *(("same", word, word) for word in ("Sam", "has", "3", ".")),
        ("only second", None, "And"),
        ("changed", "Has", "has"),
        ("same", "Sam", "Sam"),
        ("changed", "3", "5"),
        ("same", "?", "?"),
    ]


def test_units_that_only_one_side_has() -> None:
    first = of_words("Sam has apples ?", [1, 2, 3, 4])
    second = of_words("Sam has 3 big apples ?", [1, 2, 5, -7, 3, 4])
    longer = compare(first, second)
    assert indices(longer) == [(0, 0), (1, 1), (None, 2), (None, 3), (2, 4), (3, 5)]
    assert [pair.kind for pair in longer.pairs[2:4]] == ["only second"] * 2
    assert longer.pairs[2] == Pair(None, 2, None, "3", None, 5.0, "only second")
    assert [pair.difference for pair in longer.differences[:2]] == [-7.0, 5.0]
    shorter = compare(second, first)
    assert indices(shorter) == [(j, i) for i, j in indices(longer)]
    assert [pair.difference for pair in shorter.differences[:2]] == [7.0, -5.0]


def test_unequal_stretches_pair_the_most_alike() -> None:
    compared = compare(of_words("has apples ?"), of_words("has big red apple ?"))
    assert texts(compared)[1:-1] == [
        ("only second", None, "big"),
        ("only second", None, "red"),
        ("changed", "apples", "apple"),
    ]
    compared = compare(of_words("has 3 green pears now ?"), of_words("has 5 pear ?"))
    assert texts(compared)[1:-1] == [
        ("changed", "3", "5"),
        ("only first", "green", None),
        ("changed", "pears", "pear"),
        ("only first", "now", None),
    ]


def test_as_many_pairs_as_there_can_be() -> None:
    """Two for two, though the one would be more like the other two places on."""
    compared = compare(of_words("x pears kiwis ?"), of_words("x 5 6 pears7 ?"))
    assert sum(pair.kind == "changed" for pair in compared.pairs) == 2


def test_special_units_pair_with_special_ones_only() -> None:
    first, second = of_words("<bos> Sam has", [9, 1, 2]), of_words("Sam has", [1, 2])
    compared = compare(first, second)
    assert indices(compared) == [(0, None), (1, 0), (2, 1)]
    assert compared.pairs[0].special
    assert compared.scale == 2.0
    assert [pair.special for pair in compared.differences] == [False, False]
    # In one place of prompts that begin differently.
    compared = compare(of_words("<bos> Sam has"), of_words("Now Tom has"))
    assert indices(compared) == [(0, None), (None, 0), (1, 1), (2, 2)]
    # Under different names.
    compared = compare(of_words("<bos> Sam has"), of_words("<s> Sam has"))
    assert texts(compared)[0] == ("changed", "<bos>", "<s>")
    # A word that looks like a special token is a word.
    word = dataclasses.replace(second.units[0], text="<bos>")
    compared = compare(first, of_words("x Sam has", units=(word, *of_words("x Sam has").units[1:])))
    assert indices(compared) == [(0, None), (None, 0), (1, 1), (2, 2)]


def test_space_around_a_unit_makes_no_difference() -> None:
    first = of_words("Sam has")
    spaced = tuple(dataclasses.replace(unit, text=f" {unit.text}\n") for unit in first.units)
    assert {pair.kind for pair in compare(first, of_words("Sam has", units=spaced)).pairs} == {"same"}
    # Units of space alone are what they are.
    blank = tuple(dataclasses.replace(first.units[0], text=text) for text in ("\n", "Sam"))
    other = tuple(dataclasses.replace(first.units[0], text=text) for text in (" ", "Sam"))
    assert texts(compare(of_words("a b", units=blank), of_words("a b", units=other)))[0] == ("changed", "\n", " ")


@pytest.mark.parametrize("most", [0, 100_000])
def test_every_unit_of_both_is_there_once_and_in_order(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attribution.experiments.comparison._MOST_COMPARED", most)
    rng = random.Random(0)
    for _ in range(200):
        first, second = (
            of_words(" ".join(["Sam", *rng.choices(["a", "b", "ab", "<s>", "<t>", "c", "?"], k=rng.randint(0, 9))]))
            for _ in range(2)
        )
        compared = compare(first, second)
        assert [i for i, _ in indices(compared) if i is not None] == list(range(len(first.units)))
        assert [j for _, j in indices(compared) if j is not None] == list(range(len(second.units)))
        for pair in compared.pairs:
            both = pair.first is not None and pair.second is not None
            assert both == (pair.kind in ("same", "changed"))
            if pair.first is not None and pair.second is not None:
                one, other = first.units[pair.first], second.units[pair.second]
                assert one.special == other.special == pair.special
                assert (pair.kind == "same") == (one.text == other.text)


def test_long_prompts_that_differ_throughout_take_seconds_at_most() -> None:
    rng = random.Random(0)
    first, second = (of_words("Sam " + " ".join(str(rng.randrange(10**9)) for _ in range(n))) for n in (1500, 1400))
    assert sum(pair.kind == "changed" for pair in compare(first, second).pairs) == 1400


def test_texts_that_repeat_themselves() -> None:
    """What both have in common would be looked for through minutes; in little of the time the same units are found."""
    first, second = of_words("the a x " * 1333 + "end"), of_words("the a " * 2000 + "end")
    compared = compare(first, second)
    assert [i for i, _ in indices(compared) if i is not None] == list(range(len(first.units)))
    assert [j for _, j in indices(compared) if j is not None] == list(range(len(second.units)))
    assert [pair.kind for pair in compared.pairs[:2]] == ["same", "same"]
    assert compared.pairs[-1].kind == "same"


def test_what_both_begin_and_end_with_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attribution.experiments.comparison._MOST_STEPS", 0)
    first, second = of_words("a b a b a x a b a b"), of_words("a b a b a y z a b a b")
    assert [pair.kind for pair in compare(first, second).pairs].count("same") == 9
    # What one side has more of is not counted twice.
    shorter, longer = of_words("a b a"), of_words("a b a b a")
    assert [pair.kind for pair in compare(shorter, longer).pairs].count("same") == 3
    assert [pair.kind for pair in compare(longer, shorter).pairs].count("same") == 3


def test_without_steps_units_pair_up_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = of_words("Sam p q r s"), of_words("Sam q r s t")
    assert indices(compare(first, second))[1:] == [(1, None), (2, 1), (3, 2), (4, 3), (None, 4)]
    monkeypatch.setattr("attribution.experiments.comparison._MOST_STEPS", 0)
    assert indices(compare(first, second)) == [(i, i) for i in range(5)]


# One scale


def test_outputs_are_chosen_for_each_side() -> None:
    outputs = (Output("The", 1, 0.0), Output(" 3", 2, 0.0))
    first = of_words("a b", outputs=outputs, scores=[[1, 2], [4, 8]])
    second = of_words("a b", [3, 5])
    compared = compare(first, second, outputs_a="3")
    assert [pair.score_first for pair in compared.pairs] == [4.0, 8.0]
    assert compared.outputs == ((1,), (0,))
    assert [label.output for label in compared.labels] == [" 3", "3"]
    assert [pair.score_first for pair in compare(first, second).pairs] == [5.0, 10.0]
    assert [pair.score_second for pair in compare(second, first, outputs_b=[0]).pairs] == [1.0, 2.0]
    with pytest.raises(InputError, match="Expected a part of the output"):
        compare(first, second, outputs_a="5")
    with pytest.raises(InputError, match="per_output=True"):
        compare(whole(), result(), outputs_a="Yo")


def test_labels() -> None:
    compared = compare(of_words("a b"), of_words("a b", method=SIGNED | {"name": "lime"}, target="prob"))
    assert dataclasses.asdict(compared.labels[1]) == {
        "method": "lime", "model": "m", "target": "prob", "output": "3", "quantity": "prob",
    }  # fmt: skip


def test_different_measures_become_shares() -> None:
    first = of_words("<bos> a b c", [32, 1, -4, 2])
    second = of_words("<bos> a b c", [8, 100, 200, 50], method=UNSIGNED)
    compared = compare(first, second)
    assert compared.share
    assert compared.unit == SHARE == "share of the strongest"
    assert compared.scale == 1.0
    assert [pair.score_first for pair in compared.pairs] == [8.0, 0.25, -1.0, 0.5]
    assert [pair.score_second for pair in compared.pairs] == [0.04, 0.5, 1.0, 0.25]
    assert [pair.difference for pair in compared.differences] == [2.0, 0.25, -0.25]
    # One unit, but only one of them with signs.
    assert compare(first, of_words("<bos> a b c", method=SIGNED | {"signed": False})).share
    assert not compare(second, second).share


def test_different_quantities_become_shares() -> None:
    """Though their unit has one name."""

    def of_target(target: str, **changes: Any) -> Attribution:
        return of_words("a b c", [1, -4, 2], target=target, **changes)

    def of_whole(target: str, over_outputs: str) -> Attribution:
        return of_target(target, per_output=False, question={"over_outputs": over_outputs})

    logprob, contrast = of_target("logprob"), of_target("logprob - '5' instead of '3'")
    for one, other in combinations(
        [
            logprob,
            contrast,
            of_target("entropy"),
            of_whole("mean of logprob", "mean"),
            of_whole("min of logprob", "min"),
            of_whole("mean of logprob - '5'", "mean"),
        ],
        2,
    ):
        compared = compare(one, other)
        assert compared.share
        assert (compared.unit, compared.scale) == (SHARE, 1.0)
    for one, other in (
        (contrast, of_target("logprob - runner-up")),
        (logprob, of_whole("logprob", "sum")),
        (of_whole("mean of logprob - '5'", "mean"), of_whole("mean of logprob - '7'", "mean")),
        # Where there is a row for each output token, nothing was reduced.
        (logprob, of_target("logprob", question={"over_outputs": "mean"})),
    ):
        assert not compare(one, other).share
    text = " ".join(str(compare(logprob, of_whole("mean of logprob - '5'", "mean"))).split())
    assert "measured differently (the first is in nats of logprob, the second in nats of mean of contrast)" in text


def test_nothing_is_divided_by_zero() -> None:
    compared = compare(of_words("a b"), of_words("a b", method=UNSIGNED))
    assert compared.scale == 0.0
    assert [pair.difference for pair in compared.pairs] == [0.0, 0.0]
    assert compare(of_words("a b", [0, 3]), of_words("a b", method=UNSIGNED)).scale == 1.0


# How far both agree


def test_agreement() -> None:
    def agreement(first: list[float], second: list[float], **changes) -> float | None:
        words = " ".join("abcdefgh"[: len(first)])
        return compare(of_words(words, first), of_words(words, second, **changes)).agreement

    assert agreement([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert agreement([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert agreement([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.8207826817)  # ranks 1, 2, 3.5, 5, 3.5
    assert agreement([1, 1, 1], [1, 2, 3]) is None
    assert agreement([1], [1]) is None
    assert agreement([-3, 2, 1], [3, 2, 1]) == pytest.approx(-0.5)
    assert agreement([-3, 2, 1], [3, 2, 1], method=UNSIGNED) == pytest.approx(1)  # sizes against sizes


def test_agreement_is_that_of_scipy() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 6, (2, 12)).astype(float)
        words = " ".join(map(str, range(12)))
        compared = compare(of_words(words, first.tolist()), of_words(words, second.tolist()))
        assert compared.agreement == pytest.approx(spearmanr(first, second).statistic)


def test_agreement_takes_ordinary_units_of_both_sides() -> None:
    first = of_words("<bos> a b x c", [-50, 1, 2, 70, 3])
    second = of_words("<bos> a b c y", [90, 1, 2, 3, -80])
    compared = compare(first, second)
    assert [pair.kind for pair in compared.pairs] == ["same"] * 3 + ["only first", "same", "only second"]
    assert compared.agreement == pytest.approx(1)


# What cannot be compared


@pytest.mark.usefixtures("untyped")
def test_anything_but_results() -> None:
    with pytest.raises(InputError, match=r"Expected two results, got str as the first. Type compare\(explain"):
        compare("Sam has 3 apples", result())  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="got dict as the second"):
        compare(result(), result().to_dict())  # pyright: ignore[reportArgumentType]


def test_different_kinds_of_units() -> None:
    with pytest.raises(InputError, match=r"same kind of units, got 'token' and 'word'\. Type explain\(\.\.\., units="):
        compare(result(), of_words("Hi you you"))


def test_nothing_in_common() -> None:
    with pytest.raises(InputError, match="Expected two prompts with something in common, got 'a b' and 'c d'"):
        compare(of_words("a b"), of_words("c d"))
    with pytest.raises(InputError, match="in common"):
        compare(of_words("<bos> a"), of_words("<bos> c"))
    with pytest.raises(InputError, match="…' and 'c'") as caught:
        compare(of_words("a" * 1000), of_words("c"))
    assert len(str(caught.value)) < 300
    # Long units need not be the same: one sentence against another of which some words are.
    sentence = Unit("", 0, 0, 0, 1, "prompt", special=False)
    first, second = (
        of_words("x", granularity="sentence", units=(dataclasses.replace(sentence, text=f"How many {fruit}?"),))
        for fruit in ("apples", "oranges")
    )
    assert compare(first, second).pairs[0].kind == "changed"


# What it gives out


def example() -> Comparison:
    return compare(
        of_words("<bos> Sam has 3 apples . Has Sam apples ?", [0.25, 0, 0, 4, 1, 0, 0, 0, 0.5, 0]),
        of_words("<bos> Sam has 3 big apples . Has Sam oranges ?", [0.5, 0, 0, 1, -1, 1, 0, 0, 0, 2, 0.001]),
    )


def test_it_is_frozen_and_equal_to_its_like() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        example().scale = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    assert example() == example()


def test_to_dict_is_json() -> None:
    content = json.loads(json.dumps(example().to_dict()))
    assert content["schema"] == 1
    assert Attribution.to_dict(example().first) == content["first"]
    assert content["second"]["prompt"] == "Sam has 3 big apples . Has Sam oranges ?"
    assert content["pairs"][4] == {
        "first": None, "second": 4, "text_first": None, "text_second": "big", "score_first": None, "score_second": -1.0,
        "kind": "only second", "special": False, "difference": -1.0,
    }  # fmt: skip
    assert (content["scale"], content["unit"], content["share"]) == (4.0, "nats", False)
    assert content["agreement"] == example().agreement
    assert content["outputs"] == [[0], [0]]
    assert content["labels"][0]["method"] == "leave_one_out"


def test_to_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = example().to_frame()
    assert len(frame) == 11
    row = frame.iloc[9]
    assert (row.text_first, row.text_second, row.kind, row.difference) == ("apples", "oranges", "changed", 1.5)
    assert np.isnan(frame.iloc[4].score_first)
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match="pip install pandas"):
        example().to_frame()


# What a terminal shows


def test_what_it_says() -> None:
    text = str(example())
    assert text == str(ComparisonView(json.loads(json.dumps(example().to_dict()))))
    lines = text.splitlines()
    assert lines[0] == "first   leave_one_out · m · logprob · absent: delete"
    assert lines[1] == "second  leave_one_out · m · logprob · absent: delete"
    assert lines.index("Sam has 3 apples . Has Sam apples ?") < lines.index("Sam has 3 big apples . Has Sam oranges ?")
    assert lines.count("→ 3") == 2
    start = lines.index("Largest differences for the output, in nats:")
    assert lines[start + 1].split() == ["first", "second", "difference"]
    assert [re.split(r"\s\s+", line.strip()) for line in lines[start + 2 : start + 6]] == [
        ["1", "+4.000", "+1.000", "-3.000", "▒▒▒▒▒▒▒▒▒▒", "3"],
        ["2", "+0.500", "+2.000", "+1.500", "█████", "apples (2 of 2) → oranges"],
        ["3", "–", "-1.000", "-1.000", "▒▒▒", "big", "only second"],
        ["and 7 smaller"],
    ]
    assert "    both on one scale, which ends at 4.000 nats" in lines
    assert f"    rank correlation of the 9 words in both: {example().agreement:+.2f}" in lines
    assert lines[-1] == "    special tokens, outside the scale: <bos> +0.250 and +0.500"


def test_repeated_words_are_numbered() -> None:
    text = str(compare(of_words("you you a", [1, 2, 3]), of_words("you you a", [1, 5, 3])))
    assert "  you (2 of 2)\n" in text
    text = str(compare(of_words("Hi you you", [1, 2, 3]), of_words("Hi you them", [1, 5, 3])))
    assert "  you (1 of 2) / you\n" in text
    text = str(compare(of_words("a b b"), of_words("a b b c c", [0, 0, 0, 0, 1])))
    assert "  c (2 of 2)  only second\n" in text


def test_both_prompts_are_shaded_on_one_scale() -> None:
    first, second = of_words("a b", [8, 0]), of_words("a c", [4, -2])
    shown = coloured(compare(first, second), width=100).splitlines()

    def painted(text: str, score: float) -> str:
        return shade(score, 8.0).render(text)

    assert shown[3] == f"{painted('a', 8.0)} b"
    assert shown[6] == f"{painted('a', 4.0)} {painted('c', -2.0)}"


def test_only_what_is_seen_of_a_unit_is_shaded() -> None:
    first = of_words("Sam has", [1, 1])
    spaced = (first.units[0], dataclasses.replace(first.units[1], start=3))
    shown = coloured(compare(of_words("Sam has", [1, 1], units=spaced), first)).splitlines()
    assert shown[3] == shown[6] == " ".join(shade(1.0, 1.0).render(word) for word in ("Sam", "has"))


def test_special_units_with_characters_stay_outside() -> None:
    """What a chat template wrote is neither shaded nor listed."""
    first, second = of_words("user Sam has", [9, 1, 2]), of_words("user Tom has", [-9, 1, 1])
    first, second = (
        dataclasses.replace(one, units=(dataclasses.replace(one.units[0], special=True), *one.units[1:]))
        for one in (first, second)
    )
    compared = compare(first, second)
    assert compared.scale == 2.0
    shown = coloured(compared).splitlines()
    assert shown[3] == f"user {shade(1.0, 2.0).render('Sam')} {shade(2.0, 2.0).render('has')}"
    text = str(compared)
    assert "    and 1 smaller" in text
    assert "special tokens, outside the scale: user +9.000 and -9.000" in text


def test_the_compared_outputs_are_named() -> None:
    outputs = (Output("The", 1, 0.0), Output(" 3", 2, 0.0))
    scores = [[1.0, 2.0], [4.0, 8.0]]
    first, second = of_words("a b", outputs=outputs, scores=scores), of_words("a b")
    assert "for '3' and the output, in nats" in str(compare(first, second, outputs_a="3"))
    assert "for the output and 'The', in nats" in str(compare(second, first, outputs_b=0))
    assert "for the output, in nats" in str(compare(first, second))
    third = of_words("a b", outputs=outputs, scores=[[1.0, 2.0], [8.0, 4.0]])
    assert "for '3', in nats" in str(compare(first, third, outputs_a="3", outputs_b=1))
    assert "\x1b[1;7;38;2;22;136;54m 3" in coloured(compare(first, third, outputs_a="3", outputs_b=1))


def test_shares_say_so() -> None:
    first, second = of_words("a b", [1, -4]), of_words("a b", [100, 200], method=UNSIGNED)
    text = " ".join(str(compare(first, second)).split())
    assert "Largest differences for the output, as share of the strongest:" in text
    assert (
        "measured differently (the first is in nats, the second in nats per unit of embedding, without signs)" in text
    )
    assert "1 -1.000 1.000 +2.000 " in text


def test_nothing_to_tell() -> None:
    assert "No word of either prompt matters for the output: every score is 0." in str(
        compare(of_words("a b"), of_words("a b"))
    )
    same = of_words("a b", [1, 2])
    assert "No word differs for the output by more than 1% of the strongest score." in str(compare(same, same))


def test_long_lists_are_cut_and_counted() -> None:
    words = " ".join(f"w{i}" for i in range(30))
    text = str(compare(of_words(words), of_words(words, [float(i) for i in range(30)])))
    assert "    and 20 smaller" in text
    assert "+2.90e-04" in str(compare(of_words(words), of_words(words, [i * 1e-5 for i in range(30)])))


@pytest.mark.parametrize("width", [24, 40, 80])
def test_it_fits(width: int) -> None:
    assert max(map(cell_len, plain(example(), width).splitlines())) <= width


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_in_a_text_is_executed(text: str) -> None:
    def hostile(score: float, method: dict) -> Attribution:
        prompt = f"{text}Hi {text} Hi"
        size = len(text)
        spans = [
            (text, 0, size),
            ("Hi", size, size + 2),
            (text, size + 3, 2 * size + 3),
            ("Hi", 2 * size + 4, 2 * size + 6),
        ]
        units = [Unit(own, *span, i, i + 1, text, special=False) for i, (own, *span) in enumerate(spans)]
        special = Unit(text, len(prompt), len(prompt), 4, 5, text, special=True)
        return result(
            prompt=prompt,
            units=(*units, special),
            scores=np.full((3, 5), score, np.float32),
            output_scores=None,
            outputs=(Output(text, 1, 0.0),) * 3,
            model={"name": text, "architecture": "M", "dtype": "float32", "revision": None},
            method=method | {"name": text},
            target=text,
            ablation=text,
            granularity=text,
        )

    signed = {"options": {}, "signed": True, "unit": text}
    for method in (signed, signed | {"signed": False}):
        compared = compare(hostile(1.0, signed), hostile(3.0, method), outputs_a=1)
        shown = str(compared)
        assert not [c for c in shown if c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0)]
        assert not set(shown) & set("\u202e\u2066\u2028\ud800\u200b\ufeff")
        shown.encode()  # no lone surrogate is left
        assert visible(text) in shown
        left = re.sub(r"\x1b\[[0-9;]*m", "", coloured(compared, width=200))
        assert "\x1b" not in left
        assert visible(text) in left


# The embedded model


def asked(demo, thing: str, whose: str = "Sam", **options) -> Attribution:
    prompt = f"Sam has 3 apples and Tom has 5 oranges. How many {thing} does {whose} have?"
    return attribution.explain(demo, prompt, units="word", **{"method": "leave_one_out", **options})


def test_apples_and_oranges(demo) -> None:
    compared = compare(asked(demo, "apples"), asked(demo, "oranges"), outputs_a="3", outputs_b="3")
    assert len(compared.pairs) == len(compared.first.units) == len(compared.second.units)
    assert [(pair.text_first, pair.text_second) for pair in compared.pairs if pair.kind != "same"] == [
        ("apples", "oranges")
    ]
    assert compared.pairs[0].special
    assert not compared.share
    totals = compared.first.total("3"), compared.second.total("3")
    assert [pair.score_first for pair in compared.pairs] == totals[0].tolist()
    assert [pair.score_second for pair in compared.pairs] == totals[1].tolist()
    assert compared.scale == max(np.abs(total[1:]).max() for total in totals)
    text = str(compared)
    assert text.count("The answer is 3.") == 2
    assert "Largest differences for '3', in nats:" in text


def test_what_decides_moves_with_the_question(demo) -> None:
    """Asked about Sam's apples the 3 matters; asked about Tom's oranges, the 5."""
    compared = compare(asked(demo, "apples"), asked(demo, "oranges", "Tom"), outputs_a="3", outputs_b="5")
    assert [pair.text_second for pair in compared.pairs if pair.kind == "changed"] == ["oranges", "Tom"]
    difference = {pair.text_first: pair.difference for pair in compared.pairs if (pair.first or 0) < 10}
    assert difference["5"] > 0 > difference["3"]
    assert [pair.text_first for pair in compared.differences[:2]] == ["3", "5"]


def test_two_methods(demo) -> None:
    compared = compare(asked(demo, "apples"), asked(demo, "apples", method="saliency"))
    assert compared.share
    assert {pair.kind for pair in compared.pairs} == {"same"}
    assert compared.agreement is not None
    assert "measured differently" in str(compared)
