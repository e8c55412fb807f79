"""Surfaces: every finding is printed, shown in a notebook, and written as a page, as JSON and as a picture."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from attribution.errors import InputError, ResultFileError
from attribution.experiments.comparison import compare
from attribution.experiments.counterfactual import counterfactuals
from attribution.experiments.edits import Edit
from attribution.experiments.verification import verify
from attribution.experiments.what_if import whatif
from attribution.explainer import explain
from attribution.files import check_file, write_file
from attribution.models.local import LocalModel
from attribution.result import Attribution, Output
from attribution.surfaces import Surfaces, as_json
from tests.test_result import result

QUESTION = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
KINDS = ("result", "comparison", "verification", "whatif", "counterfactuals")


@pytest.fixture(scope="module")
def findings(demo: LocalModel) -> dict[str, Any]:
    """One of each kind."""
    found = explain(demo, QUESTION, method="leave_one_out")
    return {
        "result": found,
        "comparison": compare(found, explain(demo, QUESTION, method="saliency")),
        "verification": verify(demo, found, 2, outputs="3", n_random=19),
        "whatif": whatif(demo, QUESTION, [Edit.remove("Tom"), Edit.swap("3", "5")], outputs="3"),
        "counterfactuals": counterfactuals(demo, QUESTION, {"3": ["4"], "5": ["4"]}),
    }


def payload_of(page: str) -> dict[str, Any]:
    """What is embedded in a page."""
    (found,) = re.findall(r'<script type="application/json" id="attribution-payload">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


@pytest.mark.parametrize("kind", KINDS)
def test_every_finding_has_every_surface(kind: str, findings: dict[str, Any], tmp_path: Path) -> None:
    found = findings[kind]
    assert isinstance(found, Surfaces)
    found.to_html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert page == found.html_view().page()
    assert payload_of(page)["kind"] == kind
    found.to_json(str(tmp_path / "r.json"))
    content = (tmp_path / "r.json").read_bytes()
    assert content.isascii()
    assert json.loads(content) == json.loads(json.dumps(found.to_dict()))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.html", "r.json"]
    bundle = found._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert "<iframe" in bundle["text/html"]
    assert bundle["text/plain"] == str(found) == str(found.text_view())
    with Console(width=100, color_system=None).capture() as _:
        assert type(found.__rich__()) is type(found.text_view())


def test_a_notebook_takes_what_it_wants(findings: dict[str, Any]) -> None:
    found = findings["result"]
    assert set(found._repr_mimebundle_(include=["text/plain"])) == {"text/plain"}
    assert set(found._repr_mimebundle_(exclude={"text/plain"})) == {"text/html"}
    assert set(found._repr_mimebundle_(include=[], exclude=[])) == {"text/plain", "text/html"}


@pytest.mark.parametrize("write", ["to_html", "to_json", "to_csv"])
def test_where_nothing_can_be_written(write: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = result()
    monkeypatch.setattr(Attribution, "to_dict", lambda _: pytest.fail("before the place is looked at"))
    monkeypatch.setattr(Attribution, "_columns", lambda _: pytest.fail("before the place is looked at"))
    for path in (tmp_path, "", tmp_path / "no" / "r"):
        with pytest.raises(InputError, match=r"the name of a file|a folder that exists"):
            getattr(found, write)(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ("r" * 255)
    write_file(path, b"first")
    assert check_file(path) == path

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ResultFileError, match="No space left"):
            write_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ResultFileError, match="cannot be written to '/proc/x'"):
        write_file("/proc/x", b"")


def test_json_has_no_nan_and_no_half_characters() -> None:
    content = {"a": [1.0, float("nan"), (float("-inf"), "\ud800<\u2028")], "b": None}
    assert json.loads(as_json(content), parse_constant=pytest.fail) == {
        "a": [1, None, [None, "\ud800<\u2028"]],
        "b": None,
    }
    assert as_json(content).isascii()
    assert as_json({"a": 1}) == '{"a": 1}'


HOSTILE = "</script><script>alert(1)</script>\ud800\x00\x1b]0;x\x07\u202e\u2028&amp;'\""


def test_hostile_texts_reach_every_file(tmp_path: Path) -> None:
    found = result(prompt=HOSTILE + " " * 10, outputs=(Output(HOSTILE, 1, 0.0, ((HOSTILE, -0.5),)),) * 3)
    found.to_html(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert page.count("<script") == 2
    assert payload_of(page)["panels"][0]["prompt"].startswith(HOSTILE)
    found.to_json(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text("utf-8"))["outputs"][0]["alternatives"] == [[HOSTILE, -0.5]]


# The page of a result


def test_a_page_opens_with_what_is_asked(tmp_path: Path) -> None:
    result().to_html(tmp_path / "r.html", "o!")
    assert payload_of((tmp_path / "r.html").read_text("utf-8"))["selection"] == [[0, 1]]
    with pytest.raises(InputError, match="a part of the output"):
        result().html_view("no")


def test_a_page_switches_between_methods(tmp_path: Path) -> None:
    other = dataclasses.replace(result(), method=dict(result().method) | {"name": "saliency", "signed": False})
    result().to_html(tmp_path / "r.html", others=[other])
    layers = payload_of((tmp_path / "r.html").read_text("utf-8"))["panels"][0]["layers"]
    assert [layer["method"] for layer in layers] == ["leave_one_out", "saliency"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "Hi you yes"}, "got one by leave_one_out with another prompt. Type compare"),
        ({"prompt_ids": (1, 2, 3, 4)}, "with another prompt."),
        ({"units": tuple(dataclasses.replace(unit, first_token=9) for unit in result().units)}, "with another units."),
        ({"outputs": (*result().outputs[:2], Output("\n", 10, -3.0))}, "with another output."),
        ({"prompt": "Hi you yes", "outputs": (Output("", 1, 0.0),) * 3}, "with another prompt, another output."),
    ],
)
def test_a_page_is_about_one_question(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        result().html_view(others=[result(), result(**changes)])


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("others", [result(), [3], 3])
def test_others_are_results(others: object) -> None:
    with pytest.raises(InputError, match="Expected others as a list of results"):
        result().html_view(others=others)


# Plots


@pytest.mark.parametrize("kind", ["matrix", "bars"])
def test_plots(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib as mpl

    mpl.use("agg")
    figure = result().plot("Yo!", kind=kind)
    figure.savefig(tmp_path / "r.svg")
    assert (tmp_path / "r.svg").read_text("utf-8").startswith("<?xml")


@pytest.mark.usefixtures("untyped")
def test_kinds_of_plots() -> None:
    with pytest.raises(InputError, match="Expected kind out of 'matrix', 'bars', got 'pie'"):
        result().plot(kind="pie")
