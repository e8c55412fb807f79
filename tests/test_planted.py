"""Planted prompts say what they promise, the embedded model agrees, and the scores are those worked out by hand."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise, permutations
from random import Random

import numpy as np
import pytest

from attribution.errors import InputError
from attribution.explainer import explain
from attribution.models.local import LocalModel
from attribution.planted.confirmation import confirm
from attribution.planted.families import FAMILIES, SHORTCUTS, draw
from attribution.planted.prompt import ANSWER, Planted, Slot, plant
from attribution.planted.scores import auroc, average_precision, rated, recovery, score
from attribution.planted.words import NAMES, THINGS, VERBS, is_held_out

SEEDS = range(60)
EVERY = [*FAMILIES, *SHORTCUTS]
DRAWN = {family: [draw(family, seed=seed) for seed in SEEDS] for family in EVERY}


def text_of(planted: Planted, index: int) -> str:
    part = planted.parts[index]
    return (planted.output if part.written else planted.prompt)[part.start : part.end]


@pytest.mark.parametrize("family", EVERY)
def test_every_part_is_a_text_of_its_own(family: str) -> None:
    for planted in DRAWN[family]:
        reached = {False: 0, True: 0}
        for index, part in enumerate(planted.parts):
            assert part.start >= reached[part.written]
            reached[part.written] = part.end
            assert text_of(planted, index).strip() == text_of(planted, index) != ""
        assert any(part.kind == "cause" for part in planted.parts)
        assert any(part.kind == "irrelevant" for part in planted.parts) or family == "single"


@pytest.mark.parametrize("family", EVERY)
def test_every_cause_is_shown_by_a_change_that_moves_the_answer(family: str) -> None:
    for planted in DRAWN[family]:
        moving = {index for change in planted.changes if change.answer != planted.answered for index in change.tested}
        staying = {index for change in planted.changes if change.answer == planted.answered for index in change.tested}
        for index, part in enumerate(planted.parts):
            if part.kind == "cause":
                assert index in moving, (part, planted)
            else:
                assert index not in moving
            if part.kind in ("cause", "open"):
                assert index not in staying, (part, planted)


@pytest.mark.parametrize("family", EVERY)
def test_a_changed_prompt_is_one_of_the_family(family: str) -> None:
    """What a change makes differs in nothing but the texts that it names."""
    for planted in DRAWN[family][:20]:
        assert planted.changed(type(planted.changes[0])({}, planted.answered, ())) == (planted.prompt, planted.output)
        for change in planted.changes:
            prompt, output = planted.changed(change)
            own = [text_of(planted, index) for index in range(len(planted.parts))]
            other = [change.texts.get(index, own[index]) for index in range(len(planted.parts))]
            assert sum(map(len, other)) - sum(map(len, own)) + len(planted.prompt + planted.output) == len(
                prompt + output
            ) - (len(change.answer) - len(planted.answered)) * (1 + len(planted.repeated))
            assert prompt + output != planted.prompt + planted.output
            for text, part in zip(other, planted.parts, strict=True):
                assert text in (output if part.written else prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_other_number_is_the_answer(family: str) -> None:
    """Neither in the prompt nor where a change puts another one, so that every answer comes from one place."""
    for seed in range(300 if family != "needle" else 40):
        planted = draw(family, seed=seed)
        times = {"redundancy": 2, "few_shot": 1}.get(family, 1)
        assert len(re.findall(rf"\b{planted.answered}\b", planted.prompt)) == times
        for change in planted.changes:
            stated = re.findall(rf"\b{change.answer}\b", planted.changed(change)[0])
            if change.answer != planted.answered and family not in ("few_shot", "chain_of_thought"):
                assert len(stated) == (times if len(change.texts) > 1 else 1), (planted, change)


def test_a_changed_output_says_the_changed_answer_throughout() -> None:
    planted = draw("written_step", seed=1)
    for change in planted.changes:
        numbers = re.findall(r"\d+", planted.changed(change)[1])
        assert set(numbers) == {change.answer}


@pytest.mark.parametrize(("family", "causes"), [("shortcut_name", NAMES), ("shortcut_thing", THINGS)])
def test_a_shortcut_has_lopsided_causes(family: str, causes: set[str]) -> None:
    """Of what tells the fact that is asked about from the others, the name alone decides, or the thing alone."""
    for planted in DRAWN[family]:
        own = [text_of(planted, index) for index, part in enumerate(planted.parts) if part.kind == "cause"]
        words = [word for word in own if not word.isdigit()]
        assert words
        assert set(words) <= set(causes)
        assert planted.answered in own


def test_who_gives_has_it_before() -> None:
    for seed in range(200):
        prompt = draw("two_hops", seed=seed).prompt
        for giver in re.findall(r"(\w+) gave", prompt):
            assert prompt.index(f"{giver} gave") > prompt.index(giver) == re.search(rf"{giver}\b", prompt).start()
            assert re.search(rf"{giver} (?:{'|'.join(VERBS)}) \d", prompt[: prompt.index(f"{giver} gave")])


def test_a_seed_fixes_a_prompt() -> None:
    for family in FAMILIES:
        assert draw(family, seed=5) == draw(family, seed=5)
        assert draw(family, seed=5) != draw(family, seed=6)
        assert draw(family, Random(1)) == draw(family, Random(1))


def test_families_that_are_none() -> None:
    with pytest.raises(InputError, match=r"Expected a family out of single, .*got 'multiple'"):
        draw("multiple")


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_prompts_ask_for_a_pair_that_was_never_seen(family: str) -> None:
    for planted in DRAWN[family]:
        question = re.split(r"(?<=[.:])\s+", planted.prompt.removesuffix(" Think step by step."))[-1]
        if family == "few_shot":
            question = planted.prompt.rsplit("How many", 1)[1]
        words = re.findall(r"\w+", question)
        (name,) = [word for word in words if word in NAMES]
        (thing,) = [word for word in words if word in THINGS]
        assert is_held_out(name, thing), question


@pytest.mark.parametrize("family", FAMILIES)
def test_training_prompts_pair_nothing_that_is_held_out(family: str) -> None:
    for seed in SEEDS:
        planted = draw(family, seed=seed, held_out=False)
        for sentence in re.split(r"(?<=[.?:])\s+", planted.prompt + planted.output):
            words = re.findall(r"\w+", sentence)
            for name in set(words) & set(NAMES):
                for thing in set(words) & set(THINGS):
                    assert not is_held_out(name, thing), sentence


def test_needles_have_as_many_sentences_as_asked() -> None:
    for count in (20, 73, 200):
        planted = FAMILIES["needle"](Random(1), True, count)  # type: ignore[call-arg]
        assert len(re.findall(r"[.?](?= |$)", planted.prompt)) == count + 1


def test_a_reply_is_put_together() -> None:
    number = Slot("3", "cause", "number", {"4": "4"})
    planted = plant("mine", ["Sam has ", number, " apples."], "3", reply=(" So ", ANSWER, "!"))
    assert (planted.prompt, planted.output, planted.answered) == ("Sam has 3 apples.", " So 3!", "3")
    assert [planted.changed(change) for change in planted.changes] == [("Sam has 4 apples.", " So 4!")]


# The model agrees


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_embedded_model_agrees(family: str, demo: LocalModel) -> None:
    """On a sample; 97% in truth would fail this once in 80 samples, and 80% would pass one in 8."""
    found = [confirm(demo, draw(family, Random(f"tests {family} {seed}"))) for seed in range(30)]
    assert sum(each.right for each in found) >= 27
    followed = [one for each in found for one in each.followed]
    assert np.mean(followed) >= 0.97


def test_effects_are_those_of_scoring_each_changed_prompt(demo: LocalModel) -> None:
    planted = draw("conjunction", seed=1)
    found = confirm(demo, planted)

    def logprob(prompt: str) -> float:
        result = explain(demo, prompt, output=planted.output, method="leave_one_out")
        return float(sum(result.outputs[index].logprob for index in result.output_indices(planted.answer)))

    whole = logprob(planted.prompt)
    for change, drop in zip(planted.changes, found.drops, strict=True):
        assert drop == pytest.approx(whole - logprob(planted.changed(change)[0]), abs=2e-4)
    for index, effect in enumerate(found.effects):
        own = [drop for drop, change in zip(found.drops, planted.changes, strict=True) if index in change.tested]
        assert effect == (pytest.approx(np.mean(own)) if own else None)


def test_a_model_that_does_not_agree_is_found_out(llama: LocalModel) -> None:
    """A random model answers nothing right and follows nothing."""
    found = confirm(llama, draw("single", seed=1))
    assert not found.right
    assert not any(found.followed)
    assert not found.holds


# Scores


def test_auroc_by_hand() -> None:
    causes = np.array([True, True, False, False])
    assert auroc(np.array([4.0, 3, 2, 1]), causes) == 1
    assert auroc(np.array([1.0, 2, 3, 4]), causes) == 0
    assert auroc(np.array([4.0, 1, 3, 2]), causes) == 0.5
    assert auroc(np.array([4.0, 2, 2, 1]), causes) == 0.875
    assert auroc(np.zeros(4), causes) == 0.5
    assert math.isnan(auroc(np.zeros(2), np.array([True, True])))
    assert math.isnan(auroc(np.zeros(2), np.array([False, False])))


def in_every_order(scores: np.ndarray, causes: np.ndarray, measure) -> float:
    """The mean over all orders of tied items, one after the other."""
    found = []
    for order in permutations(range(len(scores))):
        if all(scores[one] >= scores[other] for one, other in pairwise(order)):
            found.append(measure(causes[list(order)]))
    return float(np.mean(found))


@pytest.mark.parametrize("seed", range(8))
def test_ties_are_in_expectation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, causes = rng.integers(0, 3, 6).astype(float), rng.random(6) < 0.5
    causes[0] = True

    def precision(ordered: np.ndarray) -> float:
        places = np.flatnonzero(ordered)
        return float(np.mean((np.arange(len(places)) + 1) / (places + 1)))

    assert average_precision(scores, causes) == pytest.approx(in_every_order(scores, causes, precision))
    for k in range(1, 7):
        expected = in_every_order(scores, causes, lambda ordered, k=k: ordered[:k].sum() / ordered.sum())
        assert recovery(scores, causes, k) == pytest.approx(expected)


def planted_scores(planted: Planted, demo: LocalModel, values, effects=None) -> dict[str, float]:
    """The scores of a result whose units have these values: `values(unit's text, index)`."""
    result = explain(demo, planted.prompt, output=planted.output, units=planted.units, method="leave_one_out")
    scores = np.array([[values(unit, i) for i, unit in enumerate(result.units)]] * len(result.outputs), np.float32)
    return score(replace(result, scores=scores), planted, effects)


def test_perfect_and_reversed_scores(demo: LocalModel) -> None:
    planted = draw("conjunction", seed=1)
    causes = [part for part in planted.parts if part.kind == "cause"]

    def perfect(unit, index: int) -> float:
        return float(any(part.start < unit.end and unit.start < part.end for part in causes))

    effects = confirm(demo, planted).effects
    found = planted_scores(planted, demo, perfect, effects)
    assert (found["auroc"], found["average_precision"], found["recovery"]) == (1, 1, 1)
    assert (found["sign_accuracy"], found["template_share"], found["irrelevant_share"]) == (1, 0, 0)
    assert found["effect_correlation"] > 0.8
    found = planted_scores(planted, demo, lambda unit, index: -perfect(unit, index), effects)
    assert (found["auroc"], found["recovery"], found["sign_accuracy"]) == (0, 0, 0)
    assert found["magnitude_auroc"] == 1
    found = planted_scores(planted, demo, lambda unit, index: 1.0, effects)
    assert found["auroc"] == 0.5
    nothing = planted_scores(planted, demo, lambda unit, index: 0.0, effects)
    assert nothing["auroc"] == 0.5
    assert math.isnan(nothing["template_share"])
    assert math.isnan(planted_scores(planted, demo, perfect)["effect_correlation"])


def test_every_unit_is_rated_and_knows_its_part(demo: LocalModel) -> None:
    planted = draw("hijack", seed=1)
    result = explain(demo, planted.prompt, output=planted.output, method="leave_one_out")
    order = next(index for index, part in enumerate(planted.parts) if part.name == "order")
    part = planted.parts[order]
    own = [i for i, unit in enumerate(result.units) if unit.start < part.end and part.start < unit.end]
    assert len(own) > 2
    units = rated(result, planted)
    assert len(units) == sum(not unit.special for unit in result.units)
    assert [unit.score for unit in units if unit.part == order] == result.total(planted.answer)[own].tolist()
    assert {unit.kind for unit in units if unit.part == order} == {"cause"}


def test_effects_are_of_parts(demo: LocalModel) -> None:
    """A part of several units has the sum of their scores; effects that are next to nothing have no order."""
    planted = draw("hijack", seed=1)
    order = next(index for index, part in enumerate(planted.parts) if part.name == "order")
    number = next(index for index, part in enumerate(planted.parts) if part.name == "number ordered")
    effects = [0.001 * index for index in range(len(planted.parts))]
    effects[order], effects[number] = 5.0, 2.0

    def values(unit, index: int) -> float:
        """Each word of the order has less than the number, all of them together have more."""
        part = planted.parts[order]
        if part.start < unit.end and unit.start < part.end:
            return 0.5
        part = planted.parts[number]
        return 1.0 if part.start < unit.end and unit.start < part.end else 0.0

    assert planted_scores(planted, demo, values, effects)["effect_correlation"] == pytest.approx(1)


def test_what_was_written_is_rated_too(demo: LocalModel) -> None:
    planted = draw("chain_of_thought", seed=1)
    result = explain(demo, planted.prompt, output=planted.output, units="token", method="leave_one_out")
    (written,) = [index for index, part in enumerate(planted.parts) if part.written]
    causes = [unit.part for unit in rated(result, planted) if unit.kind == "cause"]
    assert causes
    assert set(causes) == {written}
    assert math.isnan(
        score(explain(demo, planted.prompt, output=planted.output, method="leave_one_out"), planted)["auroc"]
    )


def test_a_result_of_another_prompt_is_refused(demo: LocalModel) -> None:
    with pytest.raises(InputError, match="Expected a result of the planted prompt"):
        score(explain(demo, "Sam has 3 apples.", method="leave_one_out"), draw("single", seed=1))
