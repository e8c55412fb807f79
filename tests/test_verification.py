"""Verification: explanations of planted causes hold and shuffled ones do not, on games and on the embedded model."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from torch import Tensor

import attribution
from attribution.errors import BudgetError, InputError
from attribution.experiments.verification import Trial, Verification, examine, verify
from attribution.models.local import LocalModel
from attribution.question import Rendered
from attribution.recorded import recorded_problem
from attribution.result import Attribution, Output, Unit
from attribution.target import Contrast, Semantic
from attribution.views.terminal.console import plain
from attribution.views.terminal.verification import VerificationView
from attribution.views.words import visible
from tests.games import Game, LinearGame
from tests.test_comparison import SIGNED, UNSIGNED, of_words
from tests.test_views import HOSTILE, coloured

QUESTION = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
CAUSES = {3: 2.5, 10: 2.5, 17: 2.5}


def explained(scores: list[float], tokens: list[int] | None = None, **changes) -> Attribution:
    """A result that gives these scores to words of one token each, or of so many."""
    found = of_words(" ".join(f"w{i}" for i in range(len(scores))), scores, **changes)
    ends = np.cumsum(tokens or [1] * len(scores)).tolist()
    starts = [0, *ends[:-1]]
    units = [
        dataclasses.replace(unit, first_token=start, last_token=end)
        for unit, start, end in zip(found.units, starts, ends, strict=True)
    ]
    return dataclasses.replace(found, units=tuple(units))


def examined(game: Game, result: Attribution, top: int = 5, *, n_random: int = 100, seed: int = 0, **more):
    rng = np.random.default_rng(seed)
    return examine(game, result, top, n_random=n_random, rng=rng, unit="nats", model=result.model, **more)


def planted(n_units: int = 24, noise: float = 0.05) -> list[float]:
    """Three causes among units that do next to nothing."""
    worth = np.random.default_rng(5).normal(0, noise, n_units)
    for unit, own in CAUSES.items():
        worth[unit] = own
    return worth.tolist()


def linear(worth: list[float]) -> LinearGame:
    return LinearGame(torch.tensor(worth, dtype=torch.float32)[:, None])


def all_there(n_units: int, *causes: int) -> Game:
    """Worth 1 where all causes are there."""
    return Game(n_units, 1, lambda keep: keep[:, list(causes)].all(1, keepdim=True).float())


def one_there(n_units: int, *causes: int) -> Game:
    """Worth 1 where one of the causes is there."""
    return Game(n_units, 1, lambda keep: keep[:, list(causes)].any(1, keepdim=True).float())


def naming(n_units: int, *units: int) -> Attribution:
    """A result that names these units, the first of them as the strongest, and nothing else."""
    scores = np.zeros(n_units)
    scores[list(units)] = np.arange(len(units), 0, -1)
    return explained(scores.tolist())


# Planted causes


def test_the_causes_themselves_hold() -> None:
    worth = planted()
    found = examined(linear(worth), explained(worth), 3)
    assert found.strongest == (3, 10, 17)
    assert (found.necessary, found.sufficient, found.held, found.verdict) == (True, True, True, "held")
    assert found.full == pytest.approx(0.5 + sum(worth), abs=1e-5)
    assert found.nothing == pytest.approx(0.5)
    assert found.drop == found.removed.effect == pytest.approx(7.5, abs=1e-5)
    assert found.removed.value == pytest.approx(found.full - 7.5, abs=1e-5)
    assert found.kept == found.alone.effect == pytest.approx(7.5, abs=1e-5)
    assert found.share == pytest.approx(7.5 / sum(worth), abs=1e-5)
    assert found.removed.p == found.alone.p == pytest.approx(1 / 101)
    assert len(found.sets) == 100
    assert found.n_sets == math.comb(24, 3) - 1
    for index, units in enumerate(found.sets):
        own = sum(worth[unit] for unit in units)
        assert found.removed.controls[index] == pytest.approx(own, abs=1e-5)
        assert found.alone.controls[index] == pytest.approx(own, abs=1e-5)


def test_weak_units_among_them_do_no_harm() -> None:
    worth = planted()
    found = examined(linear(worth), explained(worth), 5)
    assert found.held
    assert set(found.strongest) > set(CAUSES)


def test_what_is_next_to_nothing_is_not_among_the_strongest() -> None:
    """One cause, and the noise of a real model: five names would be no evidence, one is."""
    worth = [5.0 if unit == 7 else 1e-6 * (unit + 1) for unit in range(24)]
    found = examined(linear(worth), explained(worth), 5)
    assert found.strongest == (7,)
    assert found.held


def shuffled(worth: list[float], seed: int) -> Attribution:
    return explained(np.random.default_rng(seed).permutation(worth).tolist())


@pytest.mark.parametrize("seed", range(12))
def test_shuffled_scores_do_not_hold(seed: int) -> None:
    """Against all other sets a shuffle holds only where it names two of the three causes: one in 30 does, by luck."""
    worth = planted()
    found = examined(linear(worth), shuffled(worth, seed), 3, n_random=2023)
    assert len(found.sets) == found.n_sets == 2023
    assert found.held == (len(CAUSES.keys() & set(found.strongest)) >= 2)
    assert found.held is (seed == 5)


def test_scores_that_name_no_cause_never_hold() -> None:
    worth, tried = planted(), 0
    game = linear(worth)
    for seed in range(60):
        result = shuffled(worth, seed)
        if not CAUSES.keys() & set(np.argsort(result.scores[0])[-3:].tolist()):
            tried += 1
            assert examined(game, result, 3, n_random=40, seed=seed).verdict == "did not hold"
    assert tried >= 30


@pytest.mark.slow
@pytest.mark.parametrize("top", [1, 3, 5])
def test_shuffled_scores_hardly_ever_hold(top: int) -> None:
    """One in 20 does by luck, which is what a p of 0.05 means: both halves are one in a sum."""
    worth, held = planted(), 0
    game = linear(worth)
    for seed in range(400):
        held += bool(examined(game, shuffled(worth, seed), top, seed=seed).held)
    assert held <= 0.065 * 400


def test_noise_holds_no_more_than_chance_lets_it() -> None:
    """Where every unit does something and the scores say nothing about it."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        worth, scores = rng.normal(size=(2, 24)).tolist()
        held += bool(examined(linear(worth), explained(scores), 4, n_random=40).held)
    assert held <= 4


def test_one_of_two_causes_that_each_suffice() -> None:
    """Sufficient: only the other does as well, of 59. Not necessary: the other one does its work."""
    found = examined(one_there(60, 7, 40), naming(60, 7), 1)
    assert (found.drop, found.kept, found.share) == (0.0, 1.0, 1.0)
    assert len(found.sets) == found.n_sets == 59
    assert found.alone.p == pytest.approx(2 / 60)
    assert found.removed.p == 1.0
    assert (found.necessary, found.sufficient, found.held) == (False, True, False)
    assert found.verdict == "held in part: sufficient, not necessary"
    assert "Others may do the same work." in " ".join(str(found).split())


def test_both_of_two_causes_that_each_suffice() -> None:
    found = examined(one_there(60, 7, 40), naming(60, 7, 40))
    assert (found.drop, found.kept) == (1.0, 1.0)
    assert found.necessary
    assert found.removed.p == pytest.approx(1 / 101)


def test_causes_that_only_work_together() -> None:
    found = examined(all_there(60, 3, 20), naming(60, 3, 20), n_random=1000)
    assert (found.drop, found.kept, found.share) == (1.0, 1.0, 1.0)
    assert found.sufficient
    assert found.alone.p == pytest.approx(1 / 1001)
    # Of 60 units some 7% of the pairs have one of them, and destroy all when they are removed.
    assert found.removed.p == pytest.approx(1 - math.comb(58, 2) / math.comb(60, 2), abs=0.03)
    found = examined(all_there(60, 3, 20), naming(60, 3), 1)
    assert (found.necessary, found.sufficient) == (True, False)
    assert found.verdict == "held in part: necessary, not sufficient"
    assert (found.drop, found.kept, found.share) == (1.0, 0.0, 0.0)


def test_what_opposes_is_not_named() -> None:
    worth = planted()
    worth[5] = -9.0
    found = examined(linear(worth), explained(worth), 3)
    assert found.strongest == (3, 10, 17)
    assert found.held
    # The whole prompt brings less than nothing, of which there is no share.
    assert found.full < found.nothing
    assert found.share is None
    assert "of what the whole prompt brings" not in str(found)


def test_an_explanation_upside_down() -> None:
    worth = planted()
    worth[5] = -9.0
    found = examined(linear(worth), explained([-score for score in worth]), 1)
    assert found.strongest == (5,)
    assert found.drop == pytest.approx(-9.0, abs=1e-5)
    assert found.verdict == "did not hold"


def test_scores_without_signs() -> None:
    worth = planted()
    sizes = np.abs(worth).tolist()
    assert examined(linear(worth), explained(sizes, method=UNSIGNED), 3).held
    # Scores that are meant without signs, whatever stands there.
    negative = explained([-size for size in sizes], method=UNSIGNED)
    assert examined(linear(worth), negative, 3).strongest == (3, 10, 17)
    worth[3] = -3.0
    assert examined(linear(worth), explained(np.abs(worth).tolist(), method=UNSIGNED), 1).verdict == "did not hold"


def test_fewer_are_named_than_asked() -> None:
    worth = [0.0] * 24
    worth[4] = 1.0
    found = examined(linear(worth), explained(worth), 5)
    assert found.strongest == (4,)
    assert len(found.sets) == 23
    assert found.held


def test_nothing_to_verify() -> None:
    game = linear(planted())
    for scores in ([0.0] * 24, [-1.0] * 24):
        with pytest.raises(InputError, match="some word supports these outputs, but no score is above 0"):
            examined(game, explained(scores))
    assert game.cost.forwards == 0


@pytest.mark.parametrize(
    ("n_units", "top", "n_sets", "told"),
    [
        (6, 5, 5, "there are only 5 other sets of 5 words, too few. Take another top, or smaller units."),
        (6, 6, 0, "there is no other set of 6 words, too few."),
        (2, 1, 1, "there is only 1 other set of 1 word, too few."),
        (1, 3, 0, "there is no other set of 1 word, too few."),
    ],
)
def test_too_few_units_to_tell(n_units: int, top: int, n_sets: int, told: str) -> None:
    worth = [1.0 + unit for unit in range(n_units)]
    found = examined(linear(worth), explained(worth), top)
    assert len(found.sets) == found.n_sets == n_sets
    assert (found.necessary, found.sufficient, found.held, found.verdict) == (None, None, None, "cannot be told")
    assert found.drop == pytest.approx(sum(sorted(worth)[-top:]), abs=1e-5)
    text = " ".join(str(found).split())
    assert text.startswith(f"Whether the explanation holds for the output cannot be told: {told}")


def test_too_few_random_sets_to_tell() -> None:
    found = examined(linear(planted()), explained(planted()), 3, n_random=18)
    assert found.held is None
    assert "18 random sets are too few. Take a larger n_random." in " ".join(str(found).split())
    assert examined(linear(planted()), explained(planted()), 3, n_random=19).held


def test_nothing_matters() -> None:
    """Effects of 0, and of rounding only, are no more than chance."""
    flat = Game(24, 1, lambda keep: torch.full((len(keep), 1), -3.0))
    found = examined(flat, explained(planted()), 3)
    assert found.verdict == "did not hold"
    assert found.share is None
    rounded = Game(24, 1, lambda keep: -3.0 + 1e-6 * (~keep[:, 3:4]).float())
    assert examined(rounded, explained(planted()), 3).verdict == "did not hold"


# What is asked


class Listening(LinearGame):
    """Writes down what it was asked, call by call."""

    calls: list[Tensor]

    def value(self, keep: Tensor) -> Tensor:
        self.calls.append(keep)
        return super().value(keep)


def listening(worth: list[float]) -> Listening:
    game = Listening(torch.tensor(worth, dtype=torch.float32)[:, None])
    game.calls = []
    return game


def test_all_is_asked_at_once() -> None:
    game = listening(planted())
    found = examined(game, explained(planted()), 4)
    (keep,) = game.calls
    assert len(keep) == 204
    assert found.cost == {"forwards": 204, "backwards": 0, "tokens": 0}
    assert keep[0].all()
    assert not keep[1].any()
    assert (~keep[2]).nonzero()[:, 0].tolist() == sorted(found.strongest)
    assert torch.equal(keep[2::2], ~keep[3::2])
    assert [row.nonzero()[:, 0].tolist() for row in keep[5::2]] == [list(units) for units in found.sets]


def test_the_random_sets() -> None:
    worth = planted()
    found = examined(linear(worth), explained(worth), 4)
    assert len(set(found.sets)) == len(found.sets)
    assert all(len(set(units)) == 4 and tuple(sorted(units)) == units for units in found.sets)
    assert tuple(sorted(found.strongest)) not in found.sets
    assert examined(linear(worth), explained(worth), 4) == found
    other = examined(linear(worth), explained(worth), 4, seed=1)
    assert other.sets != found.sets
    assert other.drop == found.drop
    # Units of both kinds are drawn: those of the strongest too.
    assert {unit for units in found.sets for unit in units} == set(range(24))


def test_random_sets_have_about_as_many_tokens() -> None:
    tokens = [1 + unit % 6 for unit in range(24)]
    found = examined(linear(planted()), explained(planted(), tokens), 3)
    own = sum(tokens[unit] for unit in found.strongest)
    assert own == 4 + 6 + 5
    sizes = [sum(tokens[unit] for unit in units) for units in found.sets]
    assert own - 2 <= min(sizes) <= max(sizes) <= own + 2
    assert "(the strongest: 15)" in str(found)


def test_few_sets_are_all_asked() -> None:
    worth = [3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    found = examined(linear(worth), explained(worth), 3)
    assert len(set(found.sets)) == len(found.sets) == found.n_sets == 55
    assert "compared with all other sets of 3 words: 55" in str(found)


def test_what_cannot_be_removed_stays() -> None:
    worth = [5.0, *planted(23)]
    game = listening(worth)
    game.removable[0] = False
    found = examined(game, explained(worth), 3)
    assert 0 not in found.strongest
    assert all(0 not in units for units in found.sets)
    assert game.calls[0][1].nonzero()[:, 0].tolist() == [0]
    assert game.calls[0][:4:2, 0].all()
    assert found.nothing == pytest.approx(5.5)
    assert found.n_sets == math.comb(23, 3) - 1


def test_the_outputs_that_are_asked_about() -> None:
    """Scores and targets are those of the outputs that were chosen."""
    rng = np.random.default_rng(2)
    worth = rng.normal(0, 0.05, (24, 3))
    worth[[1, 2], 0], worth[[11, 12], 1] = 4.0, 3.0
    game = LinearGame(torch.tensor(worth, dtype=torch.float32))
    outputs = (Output("The", 1, 0.0), Output(" 3", 2, 0.0), Output(".", 3, 0.0))
    one = explained(worth[:, 0].tolist())
    result = dataclasses.replace(one, scores=worth.T.astype(np.float32), outputs=outputs)
    first, second, both = (examined(game, result, 2, outputs=asked) for asked in ("The", 1, "The 3"))
    assert set(first.strongest) == {1, 2}
    assert set(second.strongest) == {11, 12}
    assert first.drop == pytest.approx(8.0, abs=1e-4)
    assert second.drop == pytest.approx(6.0, abs=1e-4)
    assert both.outputs == (0, 1)
    assert both.full == pytest.approx(first.full + second.full, abs=1e-4)
    assert "held for 'The 3':" in str(both)


def test_one_row_for_the_output_as_a_whole() -> None:
    outputs = (Output("The", 1, 0.0), Output(" 3", 2, 0.0))
    worth = planted()
    result = dataclasses.replace(explained(worth), outputs=outputs, per_output=False)
    found = examined(linear(worth), result, 3)
    assert found.held
    assert found.outputs == (0, 1)
    with pytest.raises(InputError, match="computed together"):
        examined(linear(worth), result, 3, outputs=0)


def test_a_budget_that_ends() -> None:
    with pytest.raises(BudgetError, match="before all of 204 ablated prompts"):
        examined(Game(24, 1, lambda keep: keep[:, :1].float(), allowed=100), explained(planted()))


# The numbers


def test_a_trial() -> None:
    trial = Trial(value=0.0, effect=2.0, controls=tuple(np.linspace(0, 1, 39).tolist()), rounding=1e-6)
    assert trial.mean == pytest.approx(0.5)
    assert trial.interval == pytest.approx((0.025, 0.975))
    assert trial.p == 1 / 40
    assert trial.holds is True
    assert dataclasses.replace(trial, effect=0.97).p == pytest.approx(3 / 40)
    assert dataclasses.replace(trial, effect=0.97).holds is False
    # What is further apart by rounding only is at least as large.
    assert dataclasses.replace(trial, effect=1.0 + 1e-7).p == 2 / 40
    below = Trial(0.0, -1.0, (-2.0,) * 40, 0.0)
    assert (below.p, below.holds) == (1 / 41, False)
    none = Trial(0.0, 1.0, (), 0.0)
    assert (none.mean, none.interval, none.p, none.holds) == (None, None, 1.0, None)


def test_to_dict() -> None:
    worth = planted()
    found = examined(linear(worth), explained(worth), 3)
    content = found.to_dict()
    assert content == json.loads(json.dumps(content))
    assert content["schema"] == 1
    assert (content["verdict"], content["held"]) == ("held", True)
    assert content["result"] == found.result.to_dict()
    assert content["strongest"] == [3, 10, 17]
    assert content["scores"] == [2.5, 2.5, 2.5]
    assert content["removed"]["p"] == found.removed.p
    assert content["removed"]["interval"] == list(found.removed.interval or ())
    assert len(content["sets"]) == len(content["alone"]["controls"]) == 100
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.full = 0.0  # pyright: ignore[reportAttributeAccessIssue]


# What a terminal shows


def test_what_it_says() -> None:
    worth = planted()
    found = examined(linear(worth), explained(worth), 3)
    text = str(found)
    assert text == str(VerificationView(json.loads(json.dumps(found.to_dict()))))
    lines = text.splitlines()
    assert " ".join(lines[:2]).startswith(
        "The explanation held for the output: its 3 strongest words are missed more than random ones when removed, and "
        "they bring more than random ones when kept alone."
    )
    start = next(i for i, line in enumerate(lines) if line.startswith("in nats"))
    assert re.split(r"\s\s+", lines[start].strip()) == ["in nats", "strongest", "random", "95% of random", "p"]
    for line, name, trial in zip(
        lines[start + 1 :], ("lost when removed", "won when kept alone"), (found.removed, found.alone), strict=False
    ):
        low, high = trial.interval or (0, 0)
        cells = [name, "+7.500", f"{trial.mean:+.3f}", f"{low:+.3f} to {high:+.3f}", "0.010"]
        assert re.split(r"\s\s+", line.strip()) == cells
    assert f"Alone they bring {found.share:.0%} of what the whole prompt brings." in lines
    listed = lines.index("Strongest words, in nats (leave_one_out · m · logprob):")
    assert [line.split() for line in lines[listed + 1 : listed + 4]] == [
        ["1", "+2.500", "w3"],
        ["2", "+2.500", "w10"],
        ["3", "+2.500", "w17"],
    ]
    assert lines[-1] == "    compared with random sets of 3 words: 100, of 3 tokens (the strongest: 3) · 204 forwards"


@pytest.mark.parametrize(
    ("game", "units", "told"),
    [
        (
            one_there(60, 7, 40),
            (7,),
            "held in part for the output: its strongest word is not clearly missed more than a random one when "
            "removed, but it brings more than a random one when kept alone. Others may",
        ),
        (
            all_there(60, 7, 40),
            (7,),
            "held in part for the output: its strongest word is missed more than a random one when removed, but it "
            "does not clearly bring more than a random one when kept alone. in",
        ),
        (
            all_there(60, 7, 40),
            (8, 9),
            "did not hold for the output: its 2 strongest words are not clearly missed more than random ones when "
            "removed, and they do not clearly bring more than random ones when kept alone. in",
        ),
        (
            all_there(60, 7, 40),
            (7, 40),
            "held in part for the output: its 2 strongest words are not clearly missed more than random ones when "
            "removed, but they bring more than random ones when kept alone. in",
        ),
    ],
)
def test_what_it_says_of_the_other_verdicts(game: Game, units: tuple[int, ...], told: str) -> None:
    found = examined(game, naming(60, *units), n_random=1000)
    assert " ".join(str(found).split()).startswith(f"The explanation {told}")


def test_repeated_units_are_numbered_and_long_ones_cut() -> None:
    worth = planted()
    result = explained(worth)
    units = list(result.units)
    units[3] = dataclasses.replace(units[3], text="you")
    units[4] = dataclasses.replace(units[4], text="you")
    units[10] = dataclasses.replace(units[10], text="so much " * 40)
    units[17] = dataclasses.replace(units[17], text="ever so much " * 40, name="document 2")
    text = str(examined(linear(worth), dataclasses.replace(result, units=tuple(units)), 3))
    assert "  +2.500  you (1 of 2)\n" in text
    assert "  +2.500  document 2\n" in text
    assert re.search(r"\+2\.500  (so much )+so…\n", text)


def test_many_are_cut_and_counted() -> None:
    worth = [1.0 + unit for unit in range(40)]
    assert "    and 5 weaker" in str(examined(linear(worth), explained(worth), 15))
    small = [own * 1e-6 for own in worth]
    text = str(examined(Game(40, 1, lambda keep: keep.float() @ torch.tensor(small)[:, None]), explained(small), 2))
    assert "+7.90e-05" in text
    assert "+4.00e-05" in text


@pytest.mark.parametrize("width", [30, 40, 80])
def test_it_fits(width: int) -> None:
    worth = planted()
    found = examined(linear(worth), explained(worth), 3)
    assert max(map(cell_len, plain(found, width).splitlines())) <= width


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_in_a_text_is_executed(text: str) -> None:
    worth = planted()
    result = explained(
        worth,
        outputs=(Output(text, 1, 0.0),),
        model={"name": text, "architecture": "M", "dtype": "float32", "revision": None},
        method=SIGNED | {"name": text, "unit": text},
        target=text,
        granularity=text,
    )
    units = tuple(
        dataclasses.replace(unit, text=text, role=text, name=text * (unit.start % 2)) for unit in result.units
    )
    result = dataclasses.replace(result, units=units)
    for top in (3, 24):
        found = dataclasses.replace(examined(linear(worth), result, top), unit=text)
        shown = str(found)
        assert not [c for c in shown if c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0)]
        assert not set(shown) & set("\u202e\u2066\u2028\ud800\u200b\ufeff")
        shown.encode()  # no lone surrogate is left
        assert visible(text) in shown
        assert "\x1b" not in re.sub(r"\x1b\[[0-9;]*m", "", coloured(found, width=200))


# The embedded model


@pytest.fixture(scope="module")
def apples(demo) -> Attribution:
    return attribution.explain(demo, QUESTION, method="leave_one_out", units="word")


def test_the_words_that_made_it_say_5(demo) -> None:
    question = QUESTION.replace("apples does Sam", "oranges does Tom")
    oranges = attribution.explain(demo, question, method="leave_one_out", units="word")
    found = verify(demo, oranges, 2, outputs="5")
    assert [oranges.units[unit].text for unit in found.strongest] == ["5", "oranges"]
    assert found.held
    assert found.verdict == "held"
    assert found.share is not None
    assert found.share > 0.9
    assert found.unit == "nats"
    assert found.model == demo.describe()
    assert found.full == pytest.approx(oranges.outputs[found.outputs[0]].logprob, abs=1e-4)
    # One pass to see that the model is the same, and one for each text: two words of a text may say the same.
    words = {index: unit.text for index, unit in enumerate(oranges.units) if not unit.special}
    pairs = [*found.sets, found.strongest]
    texts = {
        tuple(word for i, word in words.items() if (i in pair) == kept) for pair in pairs for kept in (True, False)
    }
    assert found.cost["forwards"] == 1 + len(texts | {(), tuple(words.values())})
    assert found.cost["tokens"] > 0
    assert str(found).startswith("The explanation held for '5':")


def test_it_is_what_the_model_says(demo, apples: Attribution) -> None:
    """Removing a unit costs what leave-one-out says; without any, and with one alone, what a plain prompt says."""
    top = verify(demo, apples, 1, outputs="3")
    (unit,) = top.strongest
    assert top.drop == pytest.approx(float(apples.total("3")[unit]), abs=1e-4)
    for (other,), drop in zip(top.sets, top.removed.controls, strict=True):
        assert drop == pytest.approx(float(apples.total("3")[other]), abs=1e-4)
    problem = recorded_problem(demo, apples)
    (row,) = top.outputs
    alone = torch.zeros(1, len(apples.units), dtype=torch.bool)
    assert top.nothing == pytest.approx(float(problem.value(alone)[0, row]), abs=1e-4)
    alone[0, unit] = True
    assert top.alone.value == pytest.approx(float(problem.value(alone)[0, row]), abs=1e-4)


def reordered(result: Attribution, seed: int) -> Attribution:
    """The same with the scores of all units that can be removed shuffled."""
    own = [index for index, unit in enumerate(result.units) if not unit.special]
    scores = result.scores.copy()
    scores[:, own] = scores[:, np.random.default_rng(seed).permutation(own)]
    return dataclasses.replace(result, scores=scores)


@pytest.mark.slow
def test_the_words_among_more_of_them(demo) -> None:
    longer = "Sam has 3 apples. Ann has 7 pears. Tom has 5 oranges. Eve has 4 books. How many apples does Sam have?"
    result = attribution.explain(demo, longer, method="kernel_shap")
    assert verify(demo, result, 4, outputs="3").held
    assert not verify(demo, reordered(result, 0), 4, outputs="3").held


@pytest.mark.parametrize("seed", range(1, 6))
def test_shuffled_scores_of_the_model_do_not_hold(demo, apples: Attribution, seed: int) -> None:
    assert verify(demo, reordered(apples, seed), outputs="3").held is False


@pytest.mark.slow
def test_shuffled_scores_of_the_model_hardly_ever_hold(demo, apples: Attribution) -> None:
    held = [verify(demo, reordered(apples, seed), outputs="3", n_random=40, seed=seed).held for seed in range(20)]
    assert sum(map(bool, held)) <= 1


def test_a_saved_result(demo, apples: Attribution, tmp_path) -> None:
    apples.save(tmp_path / "apples.safetensors")
    again = Attribution.load(tmp_path / "apples.safetensors")
    assert verify(demo, again, outputs="3") == verify(demo, apples, outputs="3")


def test_the_same_call_gives_the_same(demo, apples: Attribution) -> None:
    first, again, other = (verify(demo, apples, outputs="3", n_random=40, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.sets != other.sets


@pytest.mark.parametrize(
    "options",
    [
        {"units": "token"},
        {"target": Contrast("5", instead_of="3")},
        {"target": Contrast()},
        {"target": "prob"},
        {"ablation": attribution.Replace("...")},
        {"ablation": attribution.Replace("...", "_")},
        {"ablation": "mask"},
        {"ablate_special": True},
        {"units": r"\d"},
        {"per_output": False},
        {"per_output": False, "over_outputs": "mean"},
        {"per_output": False, "over_outputs": "min"},
        {"target": Semantic(), "output": "\n\nThe answer is 3."},
    ],
    ids=str,
)
def test_every_kind_of_question_is_asked_again(demo, options: dict) -> None:
    """The target of the whole prompt, and of the prompt without the strongest unit, are those of the explanation."""
    result = attribution.explain(demo, QUESTION, method="leave_one_out", **options)
    whole = not result.per_output
    found = verify(demo, result, 1, outputs=None if whole else "3", n_random=5)
    score = float(result.total(None if whole else "3")[found.strongest[0]])
    assert found.drop == pytest.approx(score, abs=2e-3)
    assert result.evaluations is not None
    rows = [0] if whole else list(found.outputs)
    assert found.full == pytest.approx(float(result.evaluations.values[0][rows].sum()), abs=1e-3)
    assert found.held is None
    assert str(found)


def test_units_that_are_tokens(demo) -> None:
    question = QUESTION.replace("apples does Sam", "oranges does Tom")
    result = attribution.explain(demo, question, units="token", method="leave_one_out")
    found = verify(demo, result, 5, outputs="5")
    assert found.sufficient
    assert max(found.strongest) < len(result.units)
    assert "3 strongest tokens" in str(found)


def test_a_contrast(demo) -> None:
    result = attribution.explain(demo, QUESTION, target=Contrast("5", instead_of="3"), method="leave_one_out")
    found = verify(demo, result, 5, outputs="3")
    assert found.full > 0 > found.removed.value
    assert found.share == pytest.approx(found.kept / (found.full - found.nothing))
    assert "logprob - '5' instead of '3'" in str(found)


def test_gradients_are_verified_by_ablation(demo) -> None:
    result = attribution.explain(demo, QUESTION, method="saliency")
    assert result.ablation is None
    found = verify(demo, result, 3, outputs="3", n_random=30)
    assert found.unit == "nats"
    assert "in nats per unit of embedding (saliency" in " ".join(str(found).split())


def test_a_prompt_to_which_nothing_is_added(demo) -> None:
    rendered = Rendered(QUESTION, [(0, len(QUESTION), "user")])
    result = attribution.explain(demo, rendered, method="leave_one_out")
    assert result.prompt_ids != attribution.explain(demo, QUESTION, method="leave_one_out").prompt_ids
    found = verify(demo, result, 2, n_random=5)
    assert found.full == pytest.approx(sum(output.logprob for output in result.outputs), abs=1e-3)


def test_a_tokenizer_that_adds_nothing(gpt2) -> None:
    result = attribution.explain(gpt2, "the cat sat on the mat", max_new_tokens=3, method="leave_one_out")
    assert verify(gpt2, result, 1).verdict == "cannot be told"


# What it refuses


def test_another_model(demo, llama, apples: Attribution) -> None:
    with pytest.raises(InputError, match=r"the tokenizer of this one, tiny llama, reads the prompt as other tokens"):
        verify(llama, apples)
    changed = copy.deepcopy(demo.model)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(InputError, match=r"this one finds the output as likely as -\d+\.\d+ nats, that one -0\.\d+"):
        verify(LocalModel(changed, demo.tokenizer), apples)
    foreign = dataclasses.replace(apples, outputs=(*apples.outputs[:-1], Output("?", 10**6, 0.0)))
    with pytest.raises(InputError, match="has no token 1000000"):
        verify(demo, foreign)


def test_results_of_another_kind(demo, apples: Attribution) -> None:
    for changes, told in (
        ({"question": {}}, "says what was asked, as those of explain do; this one of leave_one_out does not"),
        ({"question": dict(apples.question) | {"ablation": {}}}, "its record is damaged: KeyError"),
        ({"question": dict(apples.question) | {"target": "no"}}, "Expected a target"),
        ({"question": dict(apples.question) | {"ablation": "no"}}, "Expected an ablation"),
        ({"question": dict(apples.question) | {"over_outputs": 3}}, "Expected over_outputs"),
        ({"prompt_ids": ()}, "token ids of its prompt, this one has none"),
        ({"units": (*apples.units[:-1], Unit("?", 69, 70, 3, 4, "prompt", False))}, "units are made of all tokens"),
    ):
        with pytest.raises(InputError, match=told):
            verify(demo, dataclasses.replace(apples, **changes))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"result": "r.safetensors"}, "Expected the result to verify, got str"),
        ({"top": 0}, "Expected top as a whole number"),
        ({"n_random": 0}, "Expected n_random as a whole number"),
        ({"seed": -1}, "Expected the seed"),
        ({"seed": None}, "Expected the seed"),
        ({"seed": True}, "Expected the seed"),
        ({"outputs": "seven"}, "Expected a part of the output"),
    ],
)
def test_wrong_arguments(apples: Attribution, options: dict, told: str) -> None:
    """They are said before a model is loaded."""
    with pytest.raises(InputError, match=told):
        verify("no such model", **{"result": apples} | options)


def test_it_is_a_verification(demo, apples: Attribution) -> None:
    found = verify(demo, apples, 1, n_random=1)
    assert isinstance(found, Verification)
    assert coloured(found)
