"""What the web view is given: numbers, places, levels and words, checked against known answers."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode

import numpy as np
import pytest

import attribution as at
from attribution.errors import InputError
from attribution.experiments.comparison import compare
from attribution.result import Interaction, Output, Unit
from attribution.views.web.differences import differences
from attribution.views.web.packing import pack, type_for, unpack
from attribution.views.web.panel import utf16
from attribution.views.web.payload import (
    comparison_payload,
    counterfactuals_payload,
    result_payload,
    verification_payload,
    what_if_payload,
)
from tests.test_result import result, whole

QUESTION = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"


def payload_of(*results, outputs=()):
    payload = result_payload([each.to_dict() for each in results], list(outputs) or range(len(results[0].outputs)))
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    return payload


def panel_of(*results):
    return payload_of(*results)["panels"][0]


def units_of(*texts: str, between: str = " ", **changes) -> tuple[str, tuple[Unit, ...]]:
    """A prompt and its units, for each of which `changes` has a value."""
    units, start = [], 0
    for index, text in enumerate(texts):
        own = {name: values[index] for name, values in changes.items()}
        units.append(Unit(**({"role": "prompt", "special": False} | own), **_place(text, start, index)))
        start += len(text) + len(between)
    return between.join(texts), tuple(units)


def _place(text: str, start: int, index: int) -> dict:
    return {"text": text, "start": start, "end": start + len(text), "first_token": index, "last_token": index + 1}


def with_units(*texts: str, **changes):
    prompt, units = units_of(*texts, **changes)
    return result(prompt=prompt, units=units, scores=np.zeros((3, len(units)), np.float32))


# Numbers


def test_few_numbers_are_kept_as_they_are() -> None:
    payload = panel_of(result())
    layer = payload["layers"][0]
    assert layer["scores"]["type"] == "float32"
    assert layer["scores"]["scale"] is None
    assert layer["scores"]["shape"] == [3, 4]
    raw = np.frombuffer(zlib.decompress(b64decode(layer["scores"]["data"])), "<f4")
    assert raw.tolist() == result().scores.ravel().tolist()
    assert unpack(layer["output_scores"]).tolist() == result().output_scores.tolist()
    assert layer["errors"] is None


@pytest.mark.parametrize(("kept_as", "within"), [("float16", 0.003), ("int8", 0.5 / 127)])
def test_many_numbers_are_kept_in_fewer_bits(kept_as, within) -> None:
    numbers = np.random.default_rng(0).normal(size=(5, 999)).astype(np.float32)
    numbers[1] = 0
    numbers[2] *= 1e-6
    numbers[3] *= 1e30
    packed = pack(numbers, kept_as)
    strongest = np.abs(numbers.astype(np.float64)).max(1)
    assert packed["scale"][1] == 0
    assert np.array(packed["scale"]) == pytest.approx(strongest / (127 if kept_as == "int8" else 1))
    found = unpack(packed)
    assert (np.abs(found - numbers) <= within * strongest[:, None]).all()
    assert np.abs(found).max(1) == pytest.approx(strongest)  # the strongest is exact
    if kept_as == "float16":
        seen = np.abs(numbers) > 0.001 * strongest[:, None]
        assert (np.abs(found - numbers)[seen] <= within * np.abs(numbers[seen])).all()


def test_how_many_numbers_are_kept_how() -> None:
    assert [type_for(count) for count in (1, 65_536, 65_537, 1_000_000, 1_000_001)] == [
        *("float32", "float32"),
        *("float16", "float16"),
        "int8",
    ]


def test_a_reader_is_told_where_numbers_are_rounded() -> None:
    prompt, units = units_of(*["a"] * 500)
    for rows, kept_as, within in ((100, "float32", None), (200, "float16", "0.3%"), (2100, "int8", "0.4%")):
        outputs = (Output("x", 1, -1.0),) * rows
        scores, errors = np.ones((rows, 500), np.float32), np.ones((rows, 500), np.float32)
        errors = errors if rows == 200 else None
        many = result(prompt=prompt, units=units, outputs=outputs, scores=scores, output_scores=None, errors=errors)
        layer = panel_of(many)["layers"][0]
        assert layer["scores"]["type"] == kept_as
        assert (layer["errors"] or {}).get("type") == ("int8" if rows == 200 else None)
        assert [within in text for text, _ in layer["remarks"]] == ([] if within is None else [True])


# Places


def test_places_are_counted_as_javascript_does() -> None:
    text = "a😀b\ud83dc\n🇫🇷é"
    found = utf16(text)
    assert found.tolist() == [len(text[:i].encode("utf-16-le", "surrogatepass")) // 2 for i in range(len(text) + 1)]
    panel = panel_of(with_units("😀😀", "é", "x😀y"))
    assert list(zip(panel["starts"], panel["ends"], strict=True)) == [(0, 4), (5, 6), (7, 11)]
    assert utf16("").tolist() == [0]


def test_lone_surrogates_survive() -> None:
    payload = payload_of(with_units("\ud800", "b\udfff"))
    again = json.loads(json.dumps(payload))
    assert again["panels"][0]["prompt"] == "\ud800 b\udfff"
    assert again["panels"][0]["ends"] == [1, 4]


def test_what_a_panel_says_of_units() -> None:
    panel = panel_of(result())
    assert panel["prompt"] == "Hi you you"
    assert panel["starts"] == [0, 0, 3, 7]
    assert panel["special"] == [0]
    assert [panel["roles"][role] for role in panel["role"]] == ["special", "prompt", "prompt", "prompt"]
    assert panel["labels"] == {"0": "<bos>"}  # the others say what stands in the prompt
    assert panel["tokens"] == [1, 1, 1, 1]
    assert panel["granularity"] == "token"
    assert panel["blocks"] == []
    assert panel["levels"] == panel["names"] == {}
    assert panel["outputs"]["texts"] == ["Yo", "!", "\n"]
    assert panel["outputs"]["logprobs"] == [-0.5, -0.25, -3.0]
    assert panel["outputs"]["alternatives"] == []


# Levels


def test_levels_are_those_that_bring_units_together() -> None:
    inside = [{"word": i, "sentence": i // 2, "line": 0} for i in range(4)]
    panel = panel_of(with_units(*"abcd", inside=inside, message=[None, 1, 1, 1]))
    assert panel["levels"] == {"sentence": [0, 0, 1, 1], "message": [-1, 1, 1, 1]}
    assert list(panel["levels"]) == ["sentence", "message"]  # finest first


def test_units_of_one_name_are_together() -> None:
    panel = panel_of(with_units(*"abcd", name=["x", "y", "", "x"]))
    assert panel["names"] == {"0": "x", "1": "y", "3": "x"}
    assert panel["levels"] == {"named": [0, 1, -1, 0]}
    assert panel_of(with_units(*"abc", name=["x", "y", "z"]))["levels"] == {}


def test_messages_are_blocks() -> None:
    roles = ["template", "system", "template", "user", "user", "template"]
    changes = {"message": [None, 0, None, 1, 1, None], "role": roles, "special": [r == "template" for r in roles]}
    panel = panel_of(with_units("<", "😀", ">", "ab", "cd", ">", **changes))
    assert panel["blocks"] == [{"role": "system", "start": 2, "end": 4}, {"role": "user", "start": 7, "end": 12}]
    assert panel["special"] == [0, 2, 5]


def test_outputs_say_what_else_was_likely() -> None:
    content = result().to_dict()
    for index, output in enumerate(content["outputs"]):
        output["alternatives"] = [["Yo", -0.5], ["Hi", -np.inf]] if index == 0 else []
        output["inside"] = {"word": min(index, 1), "sentence": index, "line": 0}
    outputs = result_payload([content], [0])["panels"][0]["outputs"]
    assert outputs["alternatives"] == [[["Yo", -0.5], ["Hi", None]], [], []]
    assert outputs["levels"] == {"word": [0, 1, 1]}


# Layers


def test_methods_are_layers() -> None:
    other = result(method={"name": "saliency", "options": {"a": 1}, "signed": False, "unit": "nats"}, ablation=None)
    first, second = panel_of(result(), other)["layers"]
    assert (first["method"], first["signed"], first["whole"]) == ("leave_one_out", True, False)
    assert (second["method"], second["signed"]) == ("saliency", False)
    assert ["options", "a = 1"] in second["provenance"]
    assert "absent" not in dict(second["provenance"])
    with pytest.raises(InputError, match="of one prompt in the same units"):
        payload_of(result(), with_units("a", "b"))
    with pytest.raises(InputError, match="at least one"):
        result_payload([], [])


def test_a_layer_of_the_output_as_a_whole() -> None:
    pair = Interaction(1, 2, (0.5,))
    layer = panel_of(at.Attribution(**vars(whole()) | {"interactions": (pair,)}))["layers"][0]
    assert layer["whole"]
    assert layer["scores"]["shape"] == [1, 4]
    assert layer["pairs"] == [[1, 2, [0.5]]]
    assert any("add up to within 0.5" in text for text, _ in layer["remarks"])
    assert dict(layer["provenance"])["over outputs"] == "sum"


def test_provenance() -> None:
    told = dict(panel_of(result())["layers"][0]["provenance"])
    assert told == {
        "method": "leave_one_out",
        "target": "logprob",
        "absent": "delete",
        "units": "token (4)",
        "seed": "0",
        "model": "m",
        "architecture": "M",
        "dtype": "float32",
        "cost": "4 forward passes, 20 tokens",
        "versions": "llm-attribution 0.1.0",
    }


def test_selection() -> None:
    assert payload_of(result())["selection"] == [[]]
    assert payload_of(result(), outputs=[2, 0])["selection"] == [[0, 2]]


# The other findings


def test_comparison() -> None:
    other = result(scores=result().scores * 2)
    found = compare(result(), other, outputs_b=[0])
    payload = comparison_payload(found.to_dict())
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    assert payload["kind"] == "comparison"
    assert [panel["title"] for panel in payload["panels"]] == ["first", "second"]
    assert payload["selection"] == [[], [0]]
    assert payload["comparison"]["pairs"][1] == [1, 1, "same", 4.0, 2.0, -2.0]
    assert payload["comparison"]["scale"] == found.scale
    assert payload["comparison"]["agreement"] == found.agreement


@pytest.fixture(scope="module")
def model():
    return at.load("demo")


def test_verification(model) -> None:
    found = at.verify(model, at.explain(model, QUESTION, method="leave_one_out"), 1, n_random=20)
    payload = verification_payload(found.to_dict())
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    told = payload["verification"]
    assert told["strongest"] == list(found.strongest)
    assert told["verdict"] == found.verdict
    numbers = (found.removed.effect, found.removed.mean, *found.removed.interval)
    signed = [f"{number:+.3f}".replace("-", "−") for number in numbers]
    assert told["rows"][0] == [
        "lost when removed",
        *signed[:2],
        f"{signed[2]} to {signed[3]}",
        f"{found.removed.p:.3f}",
        {True: "✓ holds", False: "✗ does not hold", None: "cannot be told"}[found.removed.holds],
    ]
    levels, remark = told["remarks"]
    assert levels.startswith(f"whole prompt {found.full:+.3f}".replace("-", "−"))
    assert remark in str(found)


def test_a_verification_without_random_sets(model) -> None:
    content = at.verify(model, at.explain(model, QUESTION, method="leave_one_out"), 1, n_random=20).to_dict()
    nothing = {"mean": None, "interval": None, "holds": None, "controls": []}
    content |= {"sets": [], "held": None, "removed": content["removed"] | nothing}
    payload = verification_payload(content)["verification"]
    assert payload["rows"][0][2:4] == ["–", "–"]
    assert payload["rows"][0][-1] == "cannot be told"
    assert payload["remarks"][-1].startswith("compared with nothing")


def test_what_if(model) -> None:
    found = at.whatif(model, QUESTION, at.Edit.replace("3", "7"))
    payload = what_if_payload(found.to_dict())
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    panel, told = payload["panels"][0], payload["experiment"]
    assert (panel["prompt"], panel["starts"], panel["layers"], panel["blocks"]) == (QUESTION, [], [], [])
    assert panel["outputs"]["texts"] == [found.answer]
    (variant,) = told["variants"]
    assert variant["diff"] == [["Sam has ", 0], ["3", -1], ["7", 1], [QUESTION[9:], 0]]
    assert variant["change"] == f"{found.variants[0].change:+.3f}".replace("-", "−")
    assert variant["changed"] is found.variants[0].changed
    assert dict(told["provenance"])["model"] == "demo"


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_if_of_a_chat(wrapped, model) -> None:
    before = [{"role": "system", "content": "Be 😀."}, {"role": "user", "content": "Hi Tom"}]
    after = [before[0], {"role": "user", "content": "Hi Ann"}]
    content = at.whatif(model, QUESTION, at.Edit.replace("3", "7")).to_dict()
    content["prompt"] = {"messages": before, "tools": [], "options": {}} if wrapped else before
    content["variants"][0]["prompt"] = {"messages": after} if wrapped else after
    payload = what_if_payload(content)
    panel = payload["panels"][0]
    assert panel["prompt"] == "Be 😀.\n\nHi Tom"
    assert panel["blocks"] == [{"role": "system", "start": 0, "end": 6}, {"role": "user", "start": 8, "end": 14}]
    assert payload["experiment"]["variants"][0]["diff"] == [
        ["system: Be 😀.\nuser: Hi ", 0],
        ["Tom", -1],
        ["Ann", 1],
    ]


def test_counterfactuals(model) -> None:
    found = at.counterfactuals(model, QUESTION, {"3": ["4"], "5": ["4"]}, max_tries=1, method="leave_one_out")
    payload = counterfactuals_payload(found.to_dict())
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    told = payload["experiment"]
    assert payload["panels"][0]["layers"][0]["method"] == "leave_one_out"
    assert told["value"] == ""
    assert [variant["edit"] for variant in told["variants"]] == [str(each) for each in found.found]
    assert "1 prompt tried" in told["remarks"]
    assert "not everything was tried: allow more tries" in told["remarks"]


# Differences


def test_differences() -> None:
    assert differences("a b", "a b") == [["a b", 0]]
    assert differences("", "x") == [["x", 1]]
    assert differences("Tom,  Ann", "Tom,  Sam and Ann") == [["Tom,  ", 0], ["Sam and ", 1], ["Ann", 0]]
    for before, after in (("a b c d", "d c b a"), ("x\ny", "y\nx"), ("😀 a", "a 😀")):
        found = differences(before, after)
        assert "".join(text for text, how in found if how != 1) == before
        assert "".join(text for text, how in found if how != -1) == after


def test_long_texts_are_folded_around_what_differs() -> None:
    before = " ".join(f"word{i}" for i in range(20_000))
    after = before.replace("word9000 ", "other ").replace("word15000", "another")
    found = differences(before, after)
    changed = [text for text, how in found if how]
    assert changed == ["word9000", "other", "word15000", "another"]
    assert sum(len(text) for text, _ in found) < 2_000
    assert all("…" in text for text, how in found if not how)
    # Nothing in common, and too much to weigh.
    assert [how for _, how in differences("same " * 2_000, "other same " * 2_000 + "!")] == [-1, 1]
