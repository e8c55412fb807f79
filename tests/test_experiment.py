"""What-if: changed prompts are really asked, and what is reported is what a plain loop finds."""

from __future__ import annotations

import json
import math

import pytest
import torch

import attribution as at
from attribution.errors import ContextWindowError, InputError
from attribution.models.local import LocalModel
from tests.state import differences, snapshot
from tests.templates import FAMILIES
from tests.tiny import tiny_model
from tests.tokenizers_ import chat_tokenizer

STORY = "Sam has 3 apples and Tom has 5 oranges."
APPLES = f"{STORY} How many apples does Sam have?"
Edit = at.Edit


def reference(model: LocalModel, text: str, output: tuple[int, ...]) -> list[float]:
    """The log-probability of each output token after a text, by a forward pass of transformers' own."""
    ids = model.tokenizer(text)["input_ids"]
    with torch.no_grad():
        logits = model.model(torch.tensor([[*ids, *output]])).logits[0].log_softmax(-1)
    return [float(logits[len(ids) - 1 + t, token]) for t, token in enumerate(output)]


def written(model: LocalModel, text: str) -> str:
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    found = model.model.generate(ids, do_sample=False, max_new_tokens=20)[0, ids.shape[1] :]
    return model.tokenizer.decode(found)


def test_every_variant_is_what_a_plain_loop_finds(demo: LocalModel) -> None:
    edits = [Edit.remove("Tom"), Edit.replace("many apples", "many pears"), Edit.swap("3", "5"), "Ann has 7 hats."]
    texts = [
        APPLES.replace("Tom ", ""),
        APPLES.replace("many apples", "many pears"),
        APPLES.replace("3", "x").replace("5", "3").replace("x", "5"),
        "Ann has 7 hats.",
    ]
    found = at.whatif(demo, APPLES, edits)
    output = demo.generate(tuple(demo.tokenizer(APPLES)["input_ids"]), 20)
    assert found.value == pytest.approx(sum(reference(demo, APPLES, output)), abs=1e-4)
    assert found.answer == found.output == found.asked == written(demo, APPLES)
    for variant, text in zip(found.variants, texts, strict=True):
        assert variant.prompt == text
        assert variant.output == written(demo, text)
        assert variant.value == pytest.approx(sum(reference(demo, text, output)), abs=1e-4)
        assert variant.change == pytest.approx(variant.value - found.value)
        assert variant.changed == (written(demo, text).strip() != written(demo, APPLES).strip())
    assert [variant.changed for variant in found.variants] == [False, False, True, True]


def test_a_part_of_the_output_is_meant(demo: LocalModel) -> None:
    found = at.whatif(demo, APPLES, Edit.swap("3", "5"), outputs="3")
    output = demo.generate(tuple(demo.tokenizer(APPLES)["input_ids"]), 20)
    place = [demo.codec.decode([token]) for token in output].index(" 3")
    assert found.asked == " 3"
    assert found.value == pytest.approx(reference(demo, APPLES, output)[place], abs=1e-5)


def test_a_given_output_is_measured_and_the_models_own_is_compared(demo: LocalModel) -> None:
    found = at.whatif(demo, APPLES, [Edit.remove("Tom"), Edit.swap("3", "5")], output="\n\nThe answer is 5.")
    assert found.output == "\n\nThe answer is 5."
    assert found.answer.strip() == "The answer is 3.<eos>"
    assert [variant.changed for variant in found.variants] == [False, True]
    assert found.variants[1].change > 3  # with 5 in Sam's hands, 5 is the likelier answer


def test_other_targets(demo: LocalModel) -> None:
    three = at.whatif(demo, APPLES, Edit.swap("3", "5"), target=at.Contrast("5", instead_of="3"))
    assert three.value > 0 > three.variants[0].value
    assert three.unit == "nats"
    prob = at.whatif(demo, APPLES, Edit.swap("3", "5"), target="prob", outputs="3")
    three_of_all = at.whatif(demo, APPLES, Edit.swap("3", "5"), outputs="3")
    assert prob.value == pytest.approx(math.exp(three_of_all.value), abs=1e-5)
    assert prob.value > 0.85
    assert prob.variants[0].value < 0.1
    semantic = at.whatif(demo, APPLES, [Edit.swap("3", "5"), Edit.remove("Tom")], target=at.Semantic("exact"))
    assert (semantic.value, semantic.unit) == (1, "similarity")
    assert [variant.value for variant in semantic.variants] == [0, 1]


def test_the_runner_up_stays_that_of_the_prompt_as_it_was(demo: LocalModel) -> None:
    ids = tuple(demo.tokenizer(APPLES)["input_ids"])
    output = demo.generate(ids, 20)
    place = [demo.codec.decode([token]) for token in output].index(" 3")
    runner_up = demo.runners_up(ids, output)[place]
    found = at.whatif(demo, APPLES, Edit.replace("many apples", "many oranges"), target=at.Contrast(), outputs="3")

    def difference(text: str) -> float:
        own = reference(demo, text, output)[place]
        return own - reference(demo, text, (*output[:place], runner_up))[place]

    assert found.value == pytest.approx(difference(APPLES), abs=1e-4)
    assert found.variants[0].value == pytest.approx(difference(found.variants[0].prompt), abs=1e-4)


def test_edits_that_the_model_never_sees_are_refused(demo: LocalModel) -> None:
    with pytest.raises(InputError, match="change what the model reads"):
        at.whatif(demo, APPLES, [Edit.remove("Tom"), Edit.replace("Tom", "Tom")])
    family = next(family for family in FAMILIES if family.name == "qwen3")
    model = LocalModel(tiny_model("llama"), chat_tokenizer(family))
    thought = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nZebra\n</think>\n\nYes."},
        {"role": "user", "content": "Go"},
    ]
    with pytest.raises(InputError, match="the chat template leaves it out"):
        at.whatif(model, thought, Edit.remove("Zebra"), max_new_tokens=2)


def test_a_mistake_in_the_last_edit_costs_nothing(demo: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalModel, "generate", lambda *_, **__: pytest.fail("the model was asked to write"))
    edits = [Edit.remove("Tom"), Edit.replace("Tom", "pears " * 2100)]
    with pytest.raises(ContextWindowError):
        at.whatif(demo, APPLES, edits, output=" 3")


def test_prompts_are_recorded_whole() -> None:
    family = next(family for family in FAMILIES if family.name == "qwen3")
    model = LocalModel(tiny_model("llama"), chat_tokenizer(family))
    chat = at.Chat([{"role": "user", "content": "Hi Tom"}], options={"enable_thinking": False})
    found = at.whatif(model, chat, Edit.remove("Tom"), max_new_tokens=2)
    messages = [{"role": "user", "content": "Hi Tom"}]
    assert found.prompt == {"messages": messages, "tools": [], "options": {"enable_thinking": False}}
    assert "user: Hi Tom" in str(found)
    rendered = at.Rendered("<|im_start|>user\nHi Tom<|im_end|>", [(17, 23, "user")])
    content = at.whatif(model, rendered, Edit.remove("Tom"), max_new_tokens=2).to_dict()
    assert content["variants"][0]["prompt"] == {"text": "<|im_start|>user\nHi<|im_end|>", "spans": [[17, 19, "user"]]}
    assert (content["schema"], content["max_new_tokens"]) == (1, 2)
    assert content["versions"]["torch"]


def test_units_by_index_are_those_of_a_result(demo: LocalModel) -> None:
    result = at.explain(demo, APPLES, units="sentence", method="leave_one_out")
    index = next(i for i, unit in enumerate(result.units) if unit.text == STORY)
    found = at.whatif(demo, APPLES, Edit.remove(index), units="sentence")
    assert found.variants[0].prompt == "How many apples does Sam have?"
    spans = at.whatif(demo, APPLES, Edit.replace("Tom has 5 oranges", "it rains"), units={"tom": "Tom has 5 oranges"})
    assert spans.variants[0].prompt == APPLES.replace("Tom has 5 oranges", "it rains")


def test_chats() -> None:
    family = next(family for family in FAMILIES if family.name == "chatml")
    model = LocalModel(tiny_model("llama"), chat_tokenizer(family))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi Tom"}]
    found = at.whatif(model, messages, [Edit.replace("Tom", "Ann"), [messages[1]]], max_new_tokens=3)
    assert found.variants[0].prompt[1] == {"role": "user", "content": "Hi Ann"}
    assert found.variants[1].prompt == [messages[1]]
    assert found.prompt == messages
    rendered = model.tokenizer.apply_chat_template([messages[1]], tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert found.variants[1].output == "".join(model.codec.output_texts(ids, model.generate(ids, 3)))
    assert "system: Be brief." in str(found)
    json.dumps(found.to_dict())


def test_it_is_shown_and_told(demo: LocalModel) -> None:
    found = at.whatif(demo, APPLES, [Edit.remove("Tom"), Edit.swap("3", "5")], outputs="3")
    shown = str(found)
    assert "'3' ⇄ '5'" in shown
    assert "The answer is 5." in shown
    assert "the same" in shown
    assert json.loads(json.dumps(found.to_dict()))["variants"][1]["changed"] is True
    frame = found.to_frame()
    assert list(frame["changed"]) == [False, True]


def test_what_a_model_writes_is_not_acted_upon() -> None:
    from attribution.views.terminal.experiment import WhatIfView

    evil = "\x1b]0;owned\x07[bold]\u202e"
    payload = {
        "prompt": evil,
        "output": evil,
        "asked": evil,
        "answer": evil,
        "target": evil,
        "unit": evil,
        "value": 1.0,
        "model": {"name": evil},
        "variants": [{"edit": evil, "output": evil, "change": 1.0, "changed": True}],
    }
    for prompt in (evil, [{"role": evil, "content": evil}]):
        shown = str(WhatIfView(payload | {"prompt": prompt}))
        assert "[bold]" in shown
        assert not set("\x1b\x07\u202e") & set(shown)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([], "at least one edit"),
        (None, "at least one edit"),
        ([3], "Expected an Edit"),
        ([Edit.remove("Tom"), Edit.remove("Ann")], "'Ann' does not stand in it"),
        ("", "at least one word"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_edits_that_are_none(edits, message: str, demo: LocalModel) -> None:
    with pytest.raises(InputError, match=message):
        at.whatif(demo, APPLES, edits)


def test_a_semantic_target_is_of_the_whole_output(demo: LocalModel) -> None:
    with pytest.raises(InputError, match="about the whole output"):
        at.whatif(demo, APPLES, Edit.remove("Tom"), target=at.Semantic(), outputs="3")


def test_a_changed_prompt_that_is_too_long(llama: LocalModel) -> None:
    with pytest.raises(ContextWindowError):
        at.whatif(llama, "Sam has 3.", Edit.replace("3", "3 apples " * 100), max_new_tokens=2)


@pytest.mark.usefixtures("untyped")  # the type checker draws from Python's random numbers
def test_nothing_of_the_model_is_changed(demo: LocalModel) -> None:
    before = snapshot(demo.model, demo.tokenizer)
    result = at.explain(demo, APPLES, method="leave_one_out")
    at.whatif(demo, APPLES, Edit.remove("Tom"))
    at.counterfactuals(demo, APPLES, {"3": ["4"]})
    at.verify(demo, result, n_random=20)
    assert differences(before, snapshot(demo.model, demo.tokenizer)) == []
