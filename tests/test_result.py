"""The result: totals, tables, files."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from attribution.errors import InputError, MissingExtraError, ResultFileError
from attribution.evaluations import Evaluations
from attribution.result import Attribution, Interaction, Output, Unit


def result(**changes) -> Attribution:
    """A prompt of which two units repeat and one is special, and an output of three tokens."""
    parts = {
        "scores": np.array([[0, 1, -2, 0.5], [0.25, 3, 0, -0.5], [0, 0, 0, 1]], np.float32),
        "output_scores": np.array([[0, 0, 0], [2, 0, 0], [1, -1, 0]], np.float32),
        "units": (
            Unit("<bos>", 0, 0, 0, 1, "special", special=True),
            Unit("Hi", 0, 2, 1, 2, "prompt", special=False),
            Unit("you", 3, 6, 2, 3, "prompt", special=False),
            Unit("you", 7, 10, 3, 4, "prompt", special=False),
        ),
        "outputs": (Output("Yo", 7, -0.5), Output("!", 8, -0.25), Output("\n", 9, -3.0)),
        "prompt": "Hi you you",
        "granularity": "token",
        "method": {"name": "leave_one_out", "options": {}, "signed": True, "unit": "nats"},
        "target": "logprob",
        "ablation": "delete",
        "seed": 0,
        "model": {"name": "m", "architecture": "M", "dtype": "float32", "revision": None},
        "cost": {"forwards": 4, "backwards": 0, "tokens": 20},
        "versions": {"attribution": "0.1.0"},
    }
    return Attribution(**parts | changes)


def test_total() -> None:
    assert result().total().tolist() == [0.25, 4, -2, 1]
    assert result().total(1).tolist() == [0.25, 3, 0, -0.5]
    assert result().total(-1).tolist() == [0, 0, 0, 1]
    assert result().total([0, 1], reduce="mean").tolist() == result().total([0, 1]).__truediv__(2).tolist()
    assert result().total([0, 1], reduce="min").tolist() == result().scores[:2].min(0).tolist()
    assert result().total([0, 2]).tolist() == [0, 1, -2, 1.5]
    assert result().total("o!").tolist() == [0.25, 4, -2, 0]  # a text stands in two tokens
    assert result().total().dtype == np.float32


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    "outputs", [3, -4, [0, 3], "no", "", 0.5, [0.5], True, np.array([True, False, True]), slice(0, 1), [None]], ids=repr
)
def test_outputs_that_are_not_there(outputs) -> None:
    with pytest.raises(InputError, match="Expected"):
        result().total(outputs)


@pytest.mark.usefixtures("untyped")
def test_total_takes_numbers_of_other_libraries() -> None:
    assert result().total(np.int64(1)).tolist() == result().total(1).tolist()
    assert result().total(np.array([0, 2])).tolist() == result().total([0, 2]).tolist()
    assert result().total(range(2)).tolist() == result().total([0, 1]).tolist()


def test_a_text_takes_all_pieces_of_its_characters() -> None:
    outputs = tuple(Output(text, 1, 0.0) for text in (" ", "😀", "", "", "x"))
    split = result(outputs=outputs, scores=np.zeros((5, 4), np.float32), output_scores=None)
    assert split.output_indices("😀") == [1, 2, 3]
    assert split.output_indices("x") == [4]
    assert split.output_indices(" 😀") == [0, 1, 2, 3]


def test_equality() -> None:
    assert result() == result()
    assert result() != result(seed=1)
    assert result() != result(scores=result().scores * 2)
    assert result() != 3


def test_scores_must_be_finite_and_are_copied() -> None:
    scores = np.zeros((3, 4), np.float32)
    kept = result(scores=scores)
    scores[0, 0] = 1
    assert kept.scores[0, 0] == 0
    with pytest.raises(InputError, match="finite"):
        result(scores=np.full((3, 4), np.nan, np.float32))


def whole() -> Attribution:
    """The same, with one row of scores for the output as a whole."""
    scores, output_scores = np.array([[0, 4, -2, 1]], np.float32), np.array([[3, -1, 0]], np.float32)
    return result(scores=scores, output_scores=output_scores, per_output=False, notes={"completeness_error": [0.5]})


def test_one_row_for_the_output_as_a_whole(tmp_path) -> None:
    assert whole().total().tolist() == [0, 4, -2, 1]
    assert whole().total(reduce="sum").tolist() == [0, 4, -2, 1]
    with pytest.raises(InputError, match="reduce out of 'sum', got 'mean'"):
        whole().total(reduce="mean")
    least = dataclasses.replace(whole(), question={"over_outputs": "min"})
    assert least.total().tolist() == least.total(reduce="min").tolist() == [0, 4, -2, 1]
    assert whole().total("Yo!\n").tolist() == whole().total([2, 1, 0]).tolist() == whole().total().tolist()
    for part in (1, "Yo", [0, 1]):
        with pytest.raises(InputError, match=r"computed together \(per_output=False\).*per_output=True"):
            whole().total(part)
    frame = whole().to_frame()
    assert frame["output_text"].unique().tolist() == ["Yo!\n"]
    assert frame["score"].tolist() == [0, 4, -2, 1]
    whole().save(tmp_path / "r.safetensors")
    again = Attribution.load(tmp_path / "r.safetensors")
    assert again == whole()
    assert again.notes == {"completeness_error": [0.5]}
    assert not again.per_output
    with pytest.raises(InputError, match=r"Expected scores of shape \(1, 4\), got \(3, 4\)"):
        result(per_output=False)


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        result().seed = 1
    with pytest.raises(ValueError, match="read-only"):
        result().scores[0, 0] = 1


@pytest.mark.usefixtures("untyped")
def test_shapes_must_fit() -> None:
    with pytest.raises(InputError, match=r"shape \(3, 4\)"):
        result(scores=np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match=r"shape \(3, 3\)"):
        result(output_scores=np.zeros((2, 2), np.float32))


def rich() -> Attribution:
    """The same, whose first output token tells its alternatives and its word."""
    first = Output("Yo", 7, -0.5, (("Yo", -0.5), ("No", -2.0)), {"word": 0})
    return result(outputs=(first, *result().outputs[1:]))


def test_to_dict_is_json() -> None:
    content = json.loads(json.dumps(result().to_dict()))
    assert content["schema"] == 3
    assert content["scores"][0] == [0, 1, -2, 0.5]
    assert content["output_scores"][1] == [2, 0, 0]
    assert content["units"][1] == {
        "text": "Hi", "start": 0, "end": 2, "first_token": 1, "last_token": 2, "role": "prompt", "special": False,
        "name": "", "message": None, "place": "", "own_start": None, "own_end": None, "inside": {},
    }  # fmt: skip
    assert content["outputs"][2] == {"text": "\n", "id": 9, "logprob": -3.0, "alternatives": [], "inside": {}}
    assert rich().to_dict()["outputs"][0] == {
        "text": "Yo", "id": 7, "logprob": -0.5, "alternatives": [["Yo", -0.5], ["No", -2.0]], "inside": {"word": 0},
    }  # fmt: skip
    assert result(output_scores=None).to_dict()["output_scores"] is None


def test_to_frame() -> None:
    frame = result().to_frame()
    assert len(frame) == 12
    row = frame.iloc[5]
    assert (row.output, row.output_text, row.unit, row.unit_text, row.score) == (1, "!", 1, "Hi", 3.0)


def test_to_frame_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match="pip install pandas"):
        result().to_frame()


@pytest.mark.parametrize("make", [result, lambda: result(errors=np.full((3, 4), 0.5, np.float32)), lambda: whole()])
def test_to_csv_has_what_to_frame_has(make, tmp_path) -> None:
    import pandas as pd

    path, frame = tmp_path / "r.csv", make().to_frame()
    make().to_csv(path)
    assert path.read_bytes().startswith(b"output,output_text,unit,unit_text,start,end,role,name,message,special,score")
    read = pd.read_csv(path, keep_default_na=False)
    assert read.columns.tolist() == frame.columns.tolist()
    for name in frame.columns:
        assert read[name].astype(str).tolist() == frame[name].map(lambda v: "" if v is None else v).astype(str).tolist()


def test_a_table_of_texts_of_any_kind(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    strange = 'é😀 \x00\x1b "quoted", \u2028\r\n</script>\n=1+1'
    monkeypatch.setitem(sys.modules, "pandas", None)
    result(outputs=(Output(strange, 1, 0.0), Output("\ud800", 2, 0.0), Output("", 3, 0.0))).to_csv(str(tmp_path / "r"))
    with (tmp_path / "r").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 13
    assert [row[1] for row in rows[1::4]] == [strange, "\\ud800", ""]
    with pytest.raises(InputError, match="a folder that exists"):
        result().to_csv(tmp_path / "no" / "r.csv")


def test_it_is_told_in_short() -> None:
    assert repr(result()) == r"<Attribution by leave_one_out: 4 units (token) x 3 output tokens, 'Yo!\n'>"
    long = result(outputs=(Output("\x1b]0;\ud800" * 100, 1, 0.0),) * 3, granularity="[0-9]+" * 100)
    assert len(repr(long)) < 500
    assert repr(long).isascii()
    assert "\x1b" not in repr(long)


# Files


@pytest.mark.parametrize("output_scores", [True, False])
def test_round_trip(tmp_path, output_scores: bool) -> None:
    original = result() if output_scores else result(output_scores=None)
    original.save(tmp_path / "r.safetensors")
    loaded = Attribution.load(tmp_path / "r.safetensors")
    assert loaded.to_dict() == original.to_dict()
    assert loaded.scores.tobytes() == original.scores.tobytes()
    assert isinstance(loaded.units[0], Unit)
    assert isinstance(loaded.outputs, tuple)
    assert [file.name for file in tmp_path.iterdir()] == ["r.safetensors"]


def test_texts_of_any_kind_survive(tmp_path) -> None:
    strange = 'é😀 \x00\x1b \ud800 "quoted" \u2028 </script>'
    original = result(prompt=strange, outputs=(Output(strange, 1, 0.0),) * 3)
    original.save(str(tmp_path / "r"))
    assert Attribution.load(str(tmp_path / "r")).outputs[0].text == strange


def test_an_existing_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    path = tmp_path / "r.safetensors"
    result().save(path)
    before = path.read_bytes()

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResultFileError, match="No space left"):
        result(seed=1).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["r.safetensors"]
    monkeypatch.undo()
    result(seed=1).save(path)
    assert Attribution.load(path).seed == 1


def test_nowhere_to_save(tmp_path) -> None:
    with pytest.raises(InputError, match="a folder that exists"):
        result().save(tmp_path / "no" / "r.safetensors")
    with pytest.raises(InputError, match="the name of a file"):
        result().save(tmp_path)


def test_damaged_files(tmp_path) -> None:
    path = tmp_path / "r.safetensors"
    result().save(path)
    whole = path.read_bytes()
    for content in (b"", b"not a result", whole[: len(whole) // 2], whole[:-3], b"\xff" * 200):
        path.write_bytes(content)
        with pytest.raises(ResultFileError, match=r"r\.safetensors"):
            Attribution.load(path)
    with pytest.raises(ResultFileError, match="No result can be read"):
        Attribution.load(tmp_path / "missing.safetensors")
    with pytest.raises(ResultFileError, match="No result can be read"):
        Attribution.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.pop("units"),
        lambda about: about.pop("schema"),
        lambda about: about.update(units=[{"text": "a"}]),
        lambda about: about.update(units=3),
        lambda about: about["outputs"].pop(),
        lambda about: about.update(schema="1"),
        lambda about: about.update(extra=1),
        lambda about: about.update(prompt=3),
        lambda about: about.update(method={}),
        lambda about: about.update(cost={}),
        lambda about: about.update(schema=True),
        lambda about: about.update(schema=0),
        lambda about: about.update(seed=None),
        lambda about: about.update(per_output=0),
        lambda about: about.update(notes=[]),
        lambda about: about["units"][1].update(text=7),
        lambda about: about["units"][1].update(start=50, end=-3),
        lambda about: about["outputs"][0].update(logprob=float("nan")),
        lambda about: about["outputs"][0].update(alternatives=3),
        lambda about: about["outputs"][0].update(alternatives="ab"),
        lambda about: about["outputs"][0].update(alternatives=[["a"]]),
        lambda about: about["outputs"][0].update(alternatives=[["a", "b"]]),
        lambda about: about["outputs"][0].update(alternatives=[[3, -1.0]]),
        lambda about: about["outputs"][0].update(alternatives=[["a", float("inf")]]),
        lambda about: about["outputs"][0].update(inside=[]),
        lambda about: about["outputs"][0].update(inside={"word": -1}),
        lambda about: about["outputs"][0].update(inside={"word": 0.5}),
        lambda about: about["outputs"].__setitem__(0, 3),
    ],
)
def test_damaged_metadata(untyped, tmp_path, change) -> None:
    about = result()._about()
    change(about)
    path = tmp_path / "r.safetensors"
    save_file({"scores": result().scores.copy()}, path, metadata={"attribution": json.dumps(about)})
    with pytest.raises(ResultFileError, match=r"r\.safetensors"):
        Attribution.load(path)


def test_damaged_metadata_that_is_no_json(untyped, tmp_path) -> None:
    path = tmp_path / "r.safetensors"
    for text in ("{", "[]", "3"):
        save_file({"scores": result().scores.copy()}, path, metadata={"attribution": text})
        with pytest.raises(ResultFileError, match="damaged"):
            Attribution.load(path)


def test_damaged_scores(untyped, tmp_path) -> None:
    path, about = tmp_path / "r.safetensors", json.dumps(result()._about())
    for scores in (np.full((3, 4), np.nan, np.float32), np.zeros((3, 4)), np.zeros((3, 3), np.float32)):
        save_file({"scores": scores}, path, metadata={"attribution": about})
        with pytest.raises(ResultFileError):
            Attribution.load(path)
    save_file({"other": np.zeros((3, 4), np.float32)}, path, metadata={"attribution": about})
    with pytest.raises(ResultFileError, match="damaged"):
        Attribution.load(path)


@pytest.mark.parametrize("schema", [1, 2])
def test_files_of_earlier_versions_open(tmp_path, schema: int) -> None:
    about = result()._about() | {"schema": schema}
    for output in about["outputs"]:
        del output["alternatives"], output["inside"]
    path = tmp_path / "r.safetensors"
    arrays = {"scores": result().scores.copy(), "output_scores": result().output_scores.copy()}
    save_file(arrays, path, metadata={"attribution": json.dumps(about)})
    assert Attribution.load(path) == result()
    assert Attribution.load(path).outputs[0].alternatives == ()


def test_alternatives_are_kept(tmp_path) -> None:
    rich().save(tmp_path / "r.safetensors")
    again = Attribution.load(tmp_path / "r.safetensors")
    assert again == rich() != result()
    assert again.outputs == rich().outputs


def test_another_safetensors_file(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros((2, 2), np.float32)}, path)
    with pytest.raises(ResultFileError, match="no result of this library"):
        Attribution.load(path)


def test_a_newer_file(tmp_path) -> None:
    path = tmp_path / "r.safetensors"
    about = {"schema": 4, "something": "new"}
    save_file({"scores": np.zeros((1, 1), np.float32)}, path, metadata={"attribution": json.dumps(about)})
    with pytest.raises(ResultFileError, match=r"newer version \(schema 4.*pip install -U llm-attribution"):
        Attribution.load(path)


# What sampling methods add


def test_errors_pairs_and_evaluations_are_kept(tmp_path) -> None:
    keep = np.array([[True, True, False, True], [True, True, True, True]])
    given = result(
        errors=np.full((3, 4), 0.5, np.float32),
        interactions=(Interaction(1, 2, (0.5, -0.25, 0.0)),),
        evaluations=Evaluations(keep, np.array([[1, 2, 3], [4, 5, 6]], np.float32)),
    )
    given.save(tmp_path / "r.safetensors")
    again = Attribution.load(tmp_path / "r.safetensors")
    assert again == given
    assert again.errors is not None
    assert again.errors.tolist() == [[0.5] * 4] * 3
    assert again.interactions == given.interactions
    assert given.interactions[0].value == 0.25
    assert again.evaluations is not None
    assert len(again.evaluations) == 2
    assert np.array_equal(again.evaluations.keep, keep)
    assert again.evaluations.values.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert json.loads(json.dumps(given.to_dict()))["errors"] == [[0.5] * 4] * 3
    assert given.to_frame()["error"].tolist() == [0.5] * 12
    assert "error" not in result().to_frame()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    "wrong",
    [
        {"errors": np.zeros((3, 3), np.float32)},
        {"errors": np.full((3, 4), np.nan, np.float32)},
    ],
)
def test_errors_that_do_not_fit(wrong: dict) -> None:
    with pytest.raises(InputError, match="Expected errors"):
        result(**wrong)


@pytest.mark.usefixtures("untyped")
def test_evaluations_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="a row of values for each mask"):
        Evaluations(np.ones((2, 4), bool), np.zeros((3, 1), np.float32))
    with pytest.raises(InputError, match="finite values"):
        Evaluations(np.ones((1, 4), bool), np.full((1, 1), np.inf, np.float32))


def test_damaged_pairs_and_evaluations(tmp_path) -> None:
    path = tmp_path / "r.safetensors"
    result(interactions=(Interaction(1, 2, (0.5, -0.25, 0.0)),)).save(path)
    about = result(interactions=(Interaction(1, 2, (0.5, -0.25, 0.0)),)).to_dict()
    for name in ("scores", "output_scores", "errors"):
        del about[name]
    arrays = {"scores": result().scores.copy()}
    about["interactions"][0]["second"] = 4
    save_file(arrays, path, metadata={"attribution": json.dumps(about)})
    with pytest.raises(ResultFileError, match="damaged in interactions"):
        Attribution.load(path)
    about["interactions"] = [{"first": 1, "second": 2, "values": [0.5]}]
    save_file(arrays, path, metadata={"attribution": json.dumps(about)})
    with pytest.raises(ResultFileError, match="damaged in interactions"):
        Attribution.load(path)
    about["interactions"] = []
    for part in ({"units": ["a", 3]}, {"units": [0, 99]}, {"units": [0, 2], "drop": [1.0]}, 3):
        about["notes"] = {"joint": [part]}
        save_file(arrays, path, metadata={"attribution": json.dumps(about)})
        with pytest.raises(ResultFileError, match="damaged in notes"):
            Attribution.load(path)
    about["notes"] = {}
    keep, values = np.ones((2, 4), np.uint8), np.zeros((3, 1), np.float32)
    save_file(
        arrays | {"evaluations_keep": keep, "evaluations_values": values},
        path,
        metadata={"attribution": json.dumps(about)},
    )
    with pytest.raises(ResultFileError, match="damaged"):
        Attribution.load(path)
