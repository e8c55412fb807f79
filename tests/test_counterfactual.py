"""Counterfactuals: the smallest change is found where there is one, and none is claimed where there is none."""

from __future__ import annotations

import json
from itertools import product

import pytest

import attribution as at
from attribution.errors import InputError
from attribution.models.local import LocalModel

STORY = "Sam has 3 apples and Tom has 5 oranges."
APPLES = f"{STORY} How many apples does Sam have?"


def says(model: LocalModel, text: str) -> str:
    return model.codec.decode(model.generate(model.codec.encode(text).ids, 20)).replace("<eos>", "").strip()


def test_single_changes_are_those_of_a_plain_loop(demo: LocalModel) -> None:
    given = {"3": ["4", "9"], "5": ["8"], "Tom": ["Ann"], "oranges": ["pears"], "and": ["while"]}
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
    given = {"Tom": ["Sam"], (49, 55): ["oranges"], "and": ["while"]}
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
    assert "not everything was tried" in str(found)


def test_it_is_shown_and_told(demo: LocalModel) -> None:
    found = at.counterfactuals(demo, APPLES, {"3": ["4"]})
    assert "'3' → '4'" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["found"][0]["changes"][0]["alternative"] == "4"
    assert list(found.to_frame()["changes"]) == ["'3' → '4'"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alternatives": {"Ann": ["x"]}}, "'Ann' does not stand in it"),
        ({"alternatives": {"Sam has": ["x"]}}, "parts that are units"),
        ({"alternatives": {"3": "x"}}, "a list of texts"),
        ({"alternatives": {"3": [""]}}, "texts with something in them"),
        ({"alternatives": []}, "texts with something in them"),
        ({"alternatives": {"3": ["3"]}}, "differ from what stands in the prompt"),
        ({"max_changes": 0}, "max_changes as a whole number"),
        ({"max_tries": 0}, "max_tries as a whole number"),
        ({"outputs": "7"}, "Expected a part of the output"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_wrong_arguments(options: dict, message: str, demo: LocalModel) -> None:
    with pytest.raises(InputError, match=message):
        at.counterfactuals(demo, APPLES, **({"alternatives": ["x"]} | options))
