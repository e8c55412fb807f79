"""Counterfactuals: the smallest change is found where there is one, and none is claimed where there is none."""

from __future__ import annotations

import json
import math
from itertools import combinations, product

import pytest
import torch

import attribution as at
from attribution.errors import InputError
from attribution.experiments import alternatives, counterfactual
from attribution.experiments.alternatives import proposed_alternatives
from attribution.models.local import LocalModel
from attribution.prompts.writing import Where
from attribution.result import Unit

STORY = "Sam has 3 apples and Tom has 5 oranges."
APPLES = f"{STORY} How many apples does Sam have?"


def says(model: LocalModel, text: str) -> str:
    return model.codec.decode(model.generate(model.codec.encode(text).ids, 20)).replace("<eos>", "").strip()


def test_single_changes_are_those_of_a_plain_loop(demo: LocalModel) -> None:
    given: dict[Where, list[str]] = {
        "3": ["4", "9"],
        "5": ["8"],
        "Tom": ["Ann"],
        "oranges": ["pears"],
        "and": ["while"],
    }
    found = at.counterfactuals(demo, APPLES, given)
    expected = {
        (part, text)
        for part, texts in given.items()
        for text in texts
        if says(demo, APPLES.replace(part, text)) != says(demo, APPLES)
    }
    assert {(each.changes[0].text, each.changes[0].alternative) for each in found.found} == expected
    assert ("3", "4") in expected
    assert found.is_complete
    assert found.tried == 6
    for each in found.found:
        change = each.changes[0]
        assert found.attribution.units[change.unit].text == change.text
        assert each.prompt == APPLES.replace(change.text, change.alternative)
        assert each.output.replace("<eos>", "").strip() == says(demo, each.prompt)
        assert each.change < 0


def test_two_changes_where_one_does_not_suffice(demo: LocalModel) -> None:
    given: dict[Where, list[str]] = {"Tom": ["Sam"], (49, 55): ["oranges"], "and": ["while"]}
    person = APPLES.replace("Tom", "Sam")
    thing = f"{STORY} How many oranges does Sam have?"
    both = person.replace("many apples", "many oranges")
    assert says(demo, person) == says(demo, thing) == says(demo, APPLES)
    assert says(demo, both) == "The answer is 5."
    found = at.counterfactuals(demo, APPLES, given)
    assert [sorted(change.alternative for change in each.changes) for each in found.found] == [["Sam", "oranges"]]
    assert found.found[0].prompt == both
    assert found.tried == 6  # three alone, and three pairs
    assert "With 2 changes" in str(found)
    assert at.counterfactuals(demo, APPLES, given, max_changes=1).found == ()


def test_every_single_change_of_a_random_model(llama: LocalModel) -> None:
    prompt, texts = "Sam has 3 apples", ["Tom", "5"]
    words = prompt.split()
    expected = {
        (place, text)
        for place, text in product(range(4), texts)
        if says(llama, " ".join([*words[:place], text, *words[place + 1 :]])) != says(llama, prompt)
    }
    found = at.counterfactuals(llama, prompt, texts)
    assert {(each.changes[0].unit - 1, each.changes[0].alternative) for each in found.found} == expected
    assert expected


def test_an_answer_that_is_wanted(demo: LocalModel) -> None:
    found = at.counterfactuals(demo, APPLES, {"3": ["4", "9"]}, answer="9")
    assert [each.changes[0].alternative for each in found.found] == ["9"]
    none = at.counterfactuals(demo, APPLES, {"3": ["4"]}, answer="9")
    assert none.found == ()
    assert "No change that was tried" in str(none)


def test_the_models_own_proposals_are_of_the_same_kind(demo: LocalModel) -> None:
    found = at.counterfactuals(demo, APPLES, outputs="3", proposals=2)
    assert found.found
    for each in found.found:
        (change,) = each.changes
        assert change.alternative != change.text
        assert change.alternative[0].isdigit() == change.text[0].isdigit()
        assert change.alternative[0].isalpha() == change.text[0].isalpha()


def test_tries_are_counted_and_what_was_left_out_is_said(demo: LocalModel) -> None:
    found = at.counterfactuals(demo, APPLES, ["Tom", "Ann", "while"], max_tries=4, answer="nothing like this")
    assert found.tried == 4
    assert not found.is_complete
    assert found.limited_by == ("max_tries",)
    assert str(found).endswith("not everything was tried: allow more tries")


def test_complete_is_what_tried_every_combination(demo: LocalModel) -> None:
    """Of units with 2, 1, 1 and 1 alternatives: 5 alone, 9 pairs, 7 threes."""
    given: dict[Where, list[str]] = {"3": ["4", "7"], "Tom": ["Ann"], "oranges": ["pears"], "and": ["while"]}
    sizes = [
        sum(math.prod(len(given[part]) for part in parts) for parts in combinations(given, size)) for size in (1, 2, 3)
    ]
    assert sizes == [5, 9, 7]
    wide, narrow = (
        at.counterfactuals(demo, APPLES, given, answer="nothing like this", max_changes=3, beam=beam)
        for beam in (100, 1)
    )
    assert wide.found == narrow.found == ()
    assert (wide.tried, wide.is_complete, wide.limited_by) == (sum(sizes), True, ())
    assert (narrow.is_complete, narrow.limited_by) == (False, ("beam",))
    assert narrow.tried <= 5 + 4 + 3  # each time all that one state can become
    assert "not everything" not in str(wide)
    assert str(narrow).endswith("not everything was tried: allow a wider beam")


def test_a_beam_that_leaves_out_nothing_is_complete(demo: LocalModel) -> None:
    """Every pair has a member among three of four changes."""
    given: dict[Where, list[str]] = {"3": ["4"], "Tom": ["Ann"], "oranges": ["pears"], "and": ["while"]}
    found = at.counterfactuals(demo, APPLES, given, answer="nothing like this", beam=3)
    assert (found.tried, found.is_complete) == (4 + 6, True)


def test_more_changes_than_units_are_no_gap(demo: LocalModel) -> None:
    found = at.counterfactuals(demo, APPLES, {"and": ["while"]}, answer="nothing like this", max_changes=5)
    assert (found.tried, found.is_complete) == (1, True)


def test_what_cannot_be_asked_is_tried_and_skipped(llama: LocalModel) -> None:
    """The tiny model reads 96 tokens at most."""
    given: dict[Where, list[str]] = {"Sam": ["Tom " * 100 + "Tom", "Tom"], "3": ["5"]}
    found = at.counterfactuals(llama, "Sam has 3 apples", given, max_changes=1)
    assert (found.tried, found.is_complete) == (3, True)
    without = at.counterfactuals(llama, "Sam has 3 apples", given | {"Sam": ["Tom"]}, max_changes=1)
    assert [str(each) for each in found.found] == [str(each) for each in without.found]
    assert found.found


def test_what_is_kept_is_said(llama: LocalModel) -> None:
    prompt, texts = "Sam has 3 apples", ["Tom", "5"]
    everything = at.counterfactuals(llama, prompt, texts)
    count = len(everything.found)
    assert count > 2
    assert everything.is_complete
    assert at.counterfactuals(llama, prompt, texts, keep=count) == everything
    some = at.counterfactuals(llama, prompt, texts, keep=2)
    assert some.found == everything.found[:2]
    assert some.limited_by == ("keep",)
    assert "more than 2 were found: raise keep" in str(some)
    assert "not everything was tried" not in str(some)


def test_changes_of_the_strongest_units_come_first(demo: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every size, whatever was tried first: here every pair leads to another answer."""

    def pairs_do(search: counterfactual._Search, state: counterfactual.State):
        search.tried += 1
        changes = tuple(choice.change for choice in state)
        # The weakest single changes seem the closest, so that they are gone on with first.
        likely = -float(state[0].rank)
        return likely, counterfactual.Counterfactual(changes, "", "", -1.0) if len(state) == 2 else None

    monkeypatch.setattr(counterfactual._Search, "_try", pairs_do)
    given: dict[Where, list[str]] = {"3": ["4"], "Tom": ["Ann"], "oranges": ["pears"], "and": ["while"]}
    found = at.counterfactuals(demo, APPLES, given)
    strength = abs(found.attribution.total())
    ranked = sorted(range(len(strength)), key=lambda unit: -strength[unit])
    ranked = [unit for unit in ranked if not found.attribution.units[unit].special]
    sums = [sum(ranked.index(change.unit) for change in each.changes) for each in found.found]
    assert len(sums) == 6
    assert sums == sorted(sums)


def test_repeated_words_are_told_apart(llama: LocalModel) -> None:
    found = at.counterfactuals(llama, "Sam saw Sam", {(0, 3): ["Ann"], (8, 11): ["Ann"]}, max_changes=1)
    by_unit = {each.changes[0].unit: each for each in found.found}
    assert len(by_unit) == 2
    first, second = (by_unit[unit] for unit in sorted(by_unit))
    assert (str(first), str(second)) == ("'Sam' (1 of 2) → 'Ann'", "'Sam' (2 of 2) → 'Ann'")
    assert (first.changes[0].part, second.changes[0].part) == ((0, 3), (8, 11))
    assert set(found.to_frame()["changes"]) == {str(first), str(second)}
    assert str(first) in str(found)
    assert str(second) in str(found)
    for each in (first, second):
        (change,) = each.changes
        edit = at.Edit.replace(change.part, change.alternative)
        (variant,) = at.whatif(llama, "Sam saw Sam", edit).variants
        assert (variant.prompt, variant.output) == (each.prompt, each.output)
        assert variant.change == pytest.approx(each.change, abs=1e-4)


def proposed(model: LocalModel, prompt: str, unit: Unit, count: int) -> list[str]:
    """The proposals for a unit, by a pass of its own over what is before it."""
    ids = model.codec.encode(prompt).ids[: unit.first_token] or (model.codec.start_id,)
    with torch.no_grad():
        ranked = model.model(torch.tensor([ids])).logits[0, -1].argsort(descending=True)
    kind = alternatives._kind
    texts = [model.codec.output_texts(ids, [int(token)])[0].strip() for token in ranked[:200]]
    special = [int(token) in model.tokenizer.all_special_ids for token in ranked[:200]]
    fits = [
        text
        for text, is_special in zip(texts, special, strict=True)
        if not is_special and text.isprintable() and text != unit.text and kind(text) == kind(unit.text)
    ]
    return list(dict.fromkeys(fits))[:count]


@pytest.mark.parametrize("at_once", [512, 2])
@pytest.mark.parametrize("name", ["demo", "llama", "gpt2"])
def test_proposals_are_those_of_a_pass_for_each_unit(
    name: str, at_once: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the unit that the text begins with, which nothing stands before where there is no BOS (gpt2)."""
    monkeypatch.setattr(alternatives, "_AT_ONCE", at_once)
    model = request.getfixturevalue(name)
    prompt = "Sam has 3 apples."
    found = at.explain(model, prompt, method="saliency")
    question = counterfactual.ask(model, prompt, counterfactual.check_units("word"), "logprob", [5])
    units = [index for index, unit in enumerate(found.units) if not unit.special]
    cost = {"forwards": 0, "tokens": 0}
    proposals = proposed_alternatives(question, units, 4, cost)
    assert {unit: proposed(model, prompt, found.units[unit], 4) for unit in units} == proposals
    assert any(proposals.values())
    if at_once == 512:
        assert cost["forwards"] == (2 if name == "gpt2" else 1)


def test_the_cost_is_that_of_every_pass(llama: LocalModel) -> None:
    passes: list[int] = []
    hook = llama.model.model.register_forward_pre_hook(
        lambda _module, _given, named: passes.append(named["input_ids"].numel()), with_kwargs=True
    )
    try:
        found = at.counterfactuals(llama, "Sam has 3 apples", proposals=2, method="saliency", max_tries=6)
        everything, passes[:] = list(passes), []
        output = [output.id for output in found.attribution.outputs]
        at.explain(llama, "Sam has 3 apples", output=output, method="saliency")
    finally:
        hook.remove()
    own = {name: found.cost[name] - found.attribution.cost[name] for name in ("forwards", "backwards", "tokens")}
    assert own == {
        "forwards": len(everything) - len(passes),
        "backwards": 0,
        "tokens": sum(everything) - sum(passes),
    }
    assert own["forwards"] > 6


def test_it_is_shown_and_told(demo: LocalModel) -> None:
    found = at.counterfactuals(demo, APPLES, {"3": ["4"]})
    assert "'3' → '4'" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["found"][0]["changes"][0]["alternative"] == "4"
    assert found.to_dict()["found"][0]["edit"] == "'3' → '4'"
    assert found.to_dict()["schema"] == 1
    assert found.to_dict()["cost"] == dict(found.cost)
    assert list(found.to_frame()["changes"]) == ["'3' → '4'"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alternatives": {"Ann": ["x"]}}, "'Ann' does not stand in it"),
        ({"alternatives": {"Sam has": ["x"]}}, "parts that are units"),
        ({"alternatives": {"3": "x"}}, "a list of texts"),
        ({"alternatives": {"3": [""]}}, "texts with something in them"),
        ({"alternatives": {"3": ["4", " \n"]}}, "texts with something in them"),
        ({"alternatives": []}, "texts with something in them"),
        ({"alternatives": {"3": ["3"]}}, "differ from what stands in the prompt"),
        ({"max_changes": 0}, "max_changes as a whole number"),
        ({"keep": 0}, "keep as a whole number"),
        ({"answer": 4}, "has to say as a text, got 4. Type for instance answer="),
        ({"answer": ""}, "has to say as a text, got ''"),
        ({"answer": " "}, "has to say as a text, got ' '"),
        ({"max_tries": 0}, "max_tries as a whole number"),
        ({"outputs": "7"}, "Expected a part of the output"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_wrong_arguments(options: dict, message: str, demo: LocalModel) -> None:
    with pytest.raises(InputError, match=message):
        at.counterfactuals(demo, APPLES, **({"alternatives": ["x"]} | options))


def test_a_blank_answer_costs_nothing() -> None:
    with pytest.raises(InputError, match="has to say as a text"):
        at.counterfactuals("there is no such model", APPLES, answer="")
