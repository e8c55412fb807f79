"""The log of experiments: its tables, its files, what it shows, and what it never holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest

import attribution as at
from attribution.errors import InputError, ResultFileError
from attribution.experiment_logger import SCHEMA, ExperimentLogger
from attribution.models.api.secret import Secret
from attribution.models.api.tally import Tally
from attribution.models.local import LocalModel

KEY = "sk-0123456789abcdef"


@pytest.fixture(scope="module")
def result(demo: LocalModel) -> at.Attribution:
    return at.explain(demo, "Sam has 3 apples.", output=" Sam has", method="leave_one_out", target="prob")


@pytest.fixture
def log(result: at.Attribution) -> ExperimentLogger:
    """Two experiments: one by output token, one of the output as a whole, by an endpoint."""
    found = ExperimentLogger()
    began = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert found.add(result, perturbation="deleted", attribution="prob_diff", started=began, seconds=1.5) == 0
    notes = {"evidence": {"road": "texts"}, "calls": {"sent": 7, "retried": 1, "cached": 2, "cost": 0.5}}
    whole = replace(result, scores=result.scores[:1], per_output=False, notes={**notes, "partial": True})
    assert found.add(whole, attribution="similarity") == 1
    return found


def test_a_row_for_each_experiment(log: ExperimentLogger, result: at.Attribution) -> None:
    first, second = log.to_frame().to_dict("records")
    assert first == {
        "experiment": 0, "started": "2026-05-01T12:00:00.000+00:00", "model": "demo", "endpoint": "",
        "prompt": "Sam has 3 apples.", "output": " Sam has", "method": "leave_one_out", "perturbation": "deleted",
        "attribution": "prob_diff", "target": "prob", "unit": "word", "road": "", "prompts": result.cost["forwards"],
        "calls": 0, "cached": 0, "tokens": result.cost["tokens"], "cost": pytest.approx(float("nan"), nan_ok=True),
        "seconds": 1.5, "partial": False, "seed": 0,
    }  # fmt: skip
    assert (second["perturbation"], second["road"], second["partial"]) == ("delete", "texts", True)
    assert (second["calls"], second["cached"], second["cost"]) == (7, 2, 0.5)


def test_a_row_for_each_unit_and_output(log: ExperimentLogger, result: at.Attribution) -> None:
    scores = log.to_frame("scores")
    assert len(scores) == result.scores.size + len(result.units)
    own = scores[scores["experiment"] == 0]
    assert own["score"].tolist() == result.scores.ravel().tolist()
    assert own["output_text"].tolist()[:: len(result.units)] == [output.text for output in result.outputs]
    assert scores[scores["experiment"] == 1]["output_text"].unique().tolist() == [result.output]
    for name in ("text", "start", "end", "role", "special"):
        told = own["unit_text" if name == "text" else name].tolist()[: len(result.units)]
        assert told == [getattr(unit, name) for unit in result.units]


def test_totals_are_those_of_the_result(log: ExperimentLogger, result: at.Attribution) -> None:
    totals = log.to_frame("totals")
    assert totals["score"].tolist() == [*result.total().tolist(), *result.scores[0].tolist()]
    assert totals["unit"].tolist() == [*range(len(result.units))] * 2


@pytest.mark.parametrize("table", ["experiments", "scores", "totals"])
def test_csv_is_the_same_table(log: ExperimentLogger, tmp_path: Path, table: Any) -> None:
    import pandas

    log.to_csv(tmp_path / "log.csv", table)
    read = pandas.read_csv(tmp_path / "log.csv", keep_default_na=False, na_values={"cost": ""})
    pandas.testing.assert_frame_equal(read, log.to_frame(table), check_dtype=False)


def test_an_empty_log_has_all_columns() -> None:
    log = ExperimentLogger()
    assert len(log.to_frame()) == len(log.to_frame("scores")) == 0
    assert log.to_frame("scores").columns[-1] == "score"


def test_a_file_keeps_all_of_it(log: ExperimentLogger, tmp_path: Path, result: at.Attribution) -> None:
    log.save(tmp_path / "log.json")
    opened = ExperimentLogger.load(tmp_path / "log.json")
    assert opened.experiments == log.experiments
    assert [path.name for path in tmp_path.iterdir()] == ["log.json"]
    assert opened.add(result) == 2
    opened.save(tmp_path / "log.json")
    assert len(ExperimentLogger.load(tmp_path / "log.json")) == 3
    # It is JSON, and says what it is.
    content = json.loads((tmp_path / "log.json").read_text(encoding="ascii"))
    assert (content["kind"], content["schema"], len(content["experiments"])) == ("attribution experiments", SCHEMA, 3)


def test_a_file_that_cannot_be_written_leaves_the_old_one(log: ExperimentLogger, tmp_path: Path) -> None:
    log.save(tmp_path / "log.json")
    before = (tmp_path / "log.json").read_bytes()
    halves = replace(log.experiments[0], prompt="\ud83d\ude00")
    log._experiments.append(halves)
    with pytest.raises(ResultFileError, match="halves of characters"):
        log.save(tmp_path / "log.json")
    assert (tmp_path / "log.json").read_bytes() == before
    with pytest.raises(InputError, match="Create"):
        log.save(tmp_path / "nowhere" / "log.json")


def changed(**fields: Any) -> Callable[[Any], Any]:
    def change(content: Any) -> Any:
        content["experiments"][0] |= fields
        return content

    return change


DAMAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another kind": (lambda content: content | {"kind": "recipe"}, "no log of this library"),
    "a list": (lambda content: [content], "no log of this library"),
    "newer": (lambda content: content | {"schema": SCHEMA + 1}, "newer version.*pip install"),
    "no experiments": (lambda content: {"kind": content["kind"], "schema": 1}, "damaged"),
    "a field more": (changed(surprise=1), "damaged"),
    "a number as text": (changed(calls="7"), "damaged.*calls"),
    "a truth as number": (changed(partial=0), "damaged.*partial"),
    "no number": (changed(seconds=float("nan")), "damaged.*seconds"),
    "other units": (changed(units=[{"text": "a"}]), "damaged.*units"),
    "fewer units": (lambda content: content["experiments"][0]["units"].pop() and content, "damaged.*scores"),
    "fewer rows": (lambda content: content["experiments"][0]["scores"].pop() and content, "damaged.*scores"),
    "a score as text": (changed(scores=[["1"]]), "damaged.*scores"),
    "scores as number": (changed(scores=3), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.usefixtures("untyped")
def test_a_damaged_file_is_refused(log: ExperimentLogger, tmp_path: Path, name: str) -> None:
    file = tmp_path / "log.json"
    log.save(file)
    damage, message = DAMAGE[name]
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    with pytest.raises(ResultFileError, match=message):
        ExperimentLogger.load(file)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"\x80\x04N."])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.json").write_bytes(content)
    with pytest.raises(ResultFileError, match="No log can be read"):
        ExperimentLogger.load(tmp_path / "log.json")
    with pytest.raises(ResultFileError, match="No log can be read"):
        ExperimentLogger.load(tmp_path / "other.json")


def test_many_threads_may_add_at_once(result: at.Attribution) -> None:
    log, barrier, numbers = ExperimentLogger(), Barrier(8), list[int]()

    def add(thread: int) -> None:
        barrier.wait()
        numbers.extend(log.add(result, attribution=f"{thread}") for _ in range(25))

    threads = [Thread(target=add, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(log.to_frame("totals")) % len(result.units) == 0  # never half an experiment
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(200))
    assert [sum(e.attribution == f"{i}" for e in log.experiments) for i in range(8)] == [25] * 8


def test_what_is_shown_is_short_and_harmless(log: ExperimentLogger, result: at.Attribution) -> None:
    prompt = "<script>alert(1)</script>\x1b[31m\u202e" + "x" * 10_000
    for _ in range(40):
        log._experiments.append(replace(log.experiments[0], prompt=prompt, model="<b>"))
    text, html = str(log), log._repr_html_()
    assert repr(log) == "<ExperimentLogger with 42 experiments>"
    assert "and 22 before them" in text
    assert "and 22 before them" in html
    assert len(text.splitlines()) == 22
    assert max(map(len, text.splitlines())) < 400
    assert len(html) < 20_000
    assert not set(text + html) & {"\x1b", "\u202e"}
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html


def test_the_key_is_hidden_wherever_a_text_has_it(result: at.Attribution, tmp_path: Path) -> None:
    unit = replace(result.units[1], text=KEY)
    spoken = [replace(result.outputs[0], text=KEY[:9]), replace(result.outputs[1], text=KEY[9:])]
    leaking = replace(
        result,
        prompt=f"the key is {KEY}",
        units=(result.units[0], unit, *result.units[2:]),
        outputs=(*spoken, *result.outputs[2:]),
        model={**result.model, "name": KEY, "endpoint": KEY},
    )
    log = ExperimentLogger()
    log.add(leaking, perturbation=f"Replace({KEY})", attribution=KEY, secret=Secret(KEY))
    log.save(tmp_path / "log.json")
    written = (tmp_path / "log.json").read_text()
    assert KEY not in written
    assert KEY[:9] not in written
    assert KEY[9:] not in written
    assert log.experiments[0].prompt == "the key is ***"
    # A word that local servers take for a key is left where it stands.
    log.add(replace(result, prompt="EMPTY glass"), secret=Secret("EMPTY"))
    assert log.experiments[1].prompt == "EMPTY glass"


def test_what_was_spent_may_be_told(result: at.Attribution) -> None:
    log = ExperimentLogger()
    log.add(result, spent=Tally(sent=3, retried=1, cached=4, tokens=50))
    (found,) = log.experiments
    assert (found.calls, found.cached, found.tokens, found.cost) == (3, 4, 50, None)


@pytest.mark.usefixtures("untyped")
def test_wrong_use(log: ExperimentLogger) -> None:
    with pytest.raises(InputError, match="Expected a result to log, got dict"):
        log.add({})  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="'experiments', 'scores', 'totals', got 'units'"):
        log.to_frame("units")  # pyright: ignore[reportArgumentType]
    assert np.isfinite([e.seconds for e in log.experiments]).all()
