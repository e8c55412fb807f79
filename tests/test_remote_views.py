"""A model behind an API on the command line, in README, in files and in every view: it is said what numbers rest on."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import attribution as at
from attribution.errors import ResultFileError
from attribution.result import Attribution
from attribution.views.evidence import evidence_remarks
from tests.servers import Server

README = Path(__file__).parent.parent / "README.md"
QUESTION = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folder for caches is one of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def said(result: Attribution) -> list[str]:
    return [sentence for sentence, _ in evidence_remarks(result.to_dict())]


def test_the_command_line_plans_asks_and_pays_once(cli, cached, stand_in: Server) -> None:
    asked = ("explain", QUESTION, "--base-url", f"{stand_in.url}/v1", "--method", "leave_one_out")
    _, plan, _ = cli(*asked, "--dry-run", "--prices", "1", "2", "--json")
    assert not stand_in.stand_in.calls
    status, out, _ = cli(*asked, "--why", "3")
    assert status == 0
    assert "Strongest words for '3', in nats" in out
    assert "rests on log-probabilities of the output itself" in out
    sent = len(stand_in.stand_in.calls)
    plan = json.loads(plan)
    assert plan["prompts"] == 18
    assert sent <= plan["calls"] + plan["probing"]
    assert plan["cost"] > 0
    _, plan, _ = cli(*asked, "--dry-run")
    assert plan.startswith("leave_one_out: at most 18 ablated prompts, 0 calls")
    assert "in the cache already" in plan
    _, again, _ = cli(*asked, "--target", "3", "--json")
    assert json.loads(again)["notes"]["calls"]["sent"] == 0
    assert len(stand_in.stand_in.calls) == sent


def test_several_methods_on_the_command_line(cli, cached, stand_in: Server) -> None:
    asked = ("explain", QUESTION, "--base-url", f"{stand_in.url}/v1", "--units", "sentence")
    found = json.loads(cli(*asked, "--method", "leave_one_out", "--method", "exact_shapley", "--json")[1])
    assert [each["method"]["name"] for each in found] == ["leave_one_out", "exact_shapley"]
    assert {each["notes"]["evidence"]["road"] for each in found} == {"scored"}


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("--max-calls", "3"), "Expected no --max-calls for 'demo', which runs here"),
        (("--no-cache",), "Expected no --cache for 'demo'"),
        (("--model", "openai:gpt-4.1-mini"), "Type: export OPENAI_API_KEY=..."),
        (("--model", "openai:gpt-4.1-mini", "--base-url", "http://localhost:1/v1"), "got both"),
        (("--base-url", "localhost"), "Expected base_url as a URL such as http://localhost:8080/v1"),
        (("--base-url", "http://localhost:1/v1", "--max-cost", "1"), "Expected prices with max_cost=1.0"),
    ],
)
def test_wrong_use_on_the_command_line(
    typed: tuple[str, ...], told: str, cli, cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    status, out, error = cli("explain", QUESTION, *typed)
    assert (status, out) == (2, "")
    assert told in error


def test_readme(cached, stand_in: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Its code for an endpoint runs as it stands, but for the address."""
    block = README.read_text(encoding="utf-8").partition("## Behind an API")[2].partition("```python notest\n")[2]
    code = block.partition("```")[0]
    assert "http://localhost:8080/v1" in code
    exec(code.replace("http://localhost:8080", stand_in.url), {"at": at, "question": QUESTION})
    plan, found = capsys.readouterr().out.splitlines()
    assert plan.startswith("leave_one_out: at most 18 ablated prompts, 19 calls; before that at most")
    assert found.startswith("scored {'sent': ")


def test_what_is_not_told_is_none_in_files_and_views(cached, stand_in: Server, tmp_path: Path, show, page) -> None:
    model = at.RemoteModel(f"{stand_in.url}/v1", "demo", progress=False)
    result = at.explain(model, QUESTION, target=at.Semantic(), units="sentence")
    assert result.outputs[0].logprob is None
    assert result.outputs[0].id == -1
    assert result.prompt_ids == ()
    assert said(result)[:2] == [
        "rests on texts alone, and on how alike they are",
        "10 answers to the prompt were all alike: no noise was measured",
    ]
    result.save(tmp_path / "r.safetensors")
    assert Attribution.load(tmp_path / "r.safetensors") == result
    assert "rests on texts alone" in str(result)
    result.to_html(tmp_path / "r.html")
    show(tmp_path / "r.html")
    assert "rests on texts alone" in page.inner_text("body")
    assert "NaN" not in page.inner_text("body")


def test_bounds_and_noise_are_warned_of(cached, stand_in: Server) -> None:
    model = at.RemoteModel(f"{stand_in.url}/v1", "demo", progress=False)
    result = at.explain(model, QUESTION, method="leave_one_out", units="sentence")
    assert said(result) == [
        "rests on log-probabilities of the output itself, as the endpoint tells them",
        "7 calls",
    ] or (said(result)[0].startswith("rests on log-probabilities"))
    evidence = {"road": "likeliest", "values": 12, "as_message": True}
    censored = [{"evaluation": 1, "output": 0, "low": None, "high": -3.0}]
    noise = {"similarities": [1.0, 0.5], "different": 2, "others": [], "floor": 0.25, "below": 2}
    told = replace(result, notes={"evidence": evidence, "censored": censored, "noise": noise})
    assert list(evidence_remarks(told.to_dict())) == [
        ("rests on the likeliest tokens that the endpoint tells", False),
        ("the text was sent as a user's message: the endpoint takes messages only", False),
        ("1 of 12 values were not told: bounds of them are in notes['censored']", True),
        ("2 answers to the prompt differed: scores up to 0.25 may be chance", False),
        ("below that, and set to 0: 2 sentences", False),
    ]
    noise = {"similarities": [0.0] * 10, "different": 10, "others": [], "floor": 0.0, "below": 0}
    unlike = replace(result, notes={"evidence": {"road": "texts"}, "noise": noise})
    assert list(evidence_remarks(unlike.to_dict()))[1:] == [
        (
            "10 answers to the prompt were 10 different texts, all as unlike the output: nothing can be told from them",
            True,
        )
    ]


@pytest.mark.parametrize(
    "damage",
    [
        {"evidence": "scored"},
        {"evidence": {"road": "scored", "values": "many"}},
        {"noise": {"similarities": 3, "floor": 0.1, "below": 1}},
        {"noise": {"similarities": [], "floor": None, "below": 1}},
        {"calls": {"sent": 1}},
        {"censored": {"evaluation": 1}},
    ],
)
def test_damaged_notes_are_told(damage: dict, cached, stand_in: Server, tmp_path: Path) -> None:
    model = at.RemoteModel(f"{stand_in.url}/v1", "demo", progress=False)
    result = at.explain(model, "Sam has 3 apples.", output=" Yes", units="sentence")
    replace(result, notes=dict(result.notes) | damage).save(tmp_path / "r.safetensors")
    with pytest.raises(ResultFileError, match="damaged in notes"):
        Attribution.load(tmp_path / "r.safetensors")


def test_load_names_a_provider(monkeypatch: pytest.MonkeyPatch, cached) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test-alone")
    model = at.load("openai:gpt-4.1-mini")
    assert isinstance(model, at.RemoteModel)
    assert repr(model) == "RemoteModel('https://api.openai.com/v1', 'gpt-4.1-mini')"
    assert at.load(model) is model
    with pytest.raises(at.AttributionError, match="no loading options"):
        at.load("openai:gpt-4.1-mini", dtype="bfloat16")


@pytest.mark.parametrize("verb", ["whatif", "verify", "counterfactuals", "evaluate"])
def test_what_needs_a_model_here_says_so(verb: str, cached, untyped, stand_in: Server) -> None:
    model = at.RemoteModel(f"{stand_in.url}/v1", "demo", progress=False)
    result = at.explain(model, QUESTION, units="sentence")
    arguments = {
        "whatif": (QUESTION, [at.Edit.remove("Tom")]),
        "verify": (result,),
        "counterfactuals": (QUESTION,),
        "evaluate": ([QUESTION],),
    }[verb]
    with pytest.raises(at.AttributionError, match=f"{verb} needs a model that runs here"):
        getattr(at, verb)(model, *arguments)


def test_results_are_compared_and_tabled(cached, stand_in: Server) -> None:
    model = at.RemoteModel(f"{stand_in.url}/v1", "demo", progress=False)
    one = at.explain(model, QUESTION, method="leave_one_out")
    other = at.explain(model, QUESTION.replace("apples does", "oranges does"), method="leave_one_out")
    assert "oranges" in str(at.compare(one, other))
    assert np.isfinite(one.to_frame()["score"]).all()


def test_a_dry_run_holds_nobody_else_up(cached, stand_in: Server) -> None:
    model = at.RemoteModel(f"{stand_in.url}/v1", "demo", cache=False, progress=False)
    with ThreadPoolExecutor() as pool, model.client.offline():
        result = pool.submit(at.explain, model, QUESTION, units="sentence").result(60)
        with pytest.raises(at.AttributionError):
            at.explain(model, QUESTION, units="sentence")
    assert result.scores.shape[1] == 2
    assert model.client.exhausted is None
    assert at.explain(model, QUESTION, units="sentence").scores.tolist() == result.scores.tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"limits": {"max_calls": 5}}, "Expected limits as Limits"),
        ({"more": "seed"}, "Expected more as a dict"),
        ({"api_key": 5}, "Expected api_key as a text, got int"),
        ({"base_url": 5}, "Expected base_url as a URL"),
        ({"base_url": "me:planted@host/v1"}, "got 'host/v1'"),
        ({"base_url": "localhost:8080/v1?api-key=planted"}, "got 'localhost:8080/v1'"),
    ],
)
def test_wrong_arguments_are_told_without_what_may_be_a_key(arguments: dict, said: str, untyped, cached) -> None:
    with pytest.raises(at.AttributionError, match=said) as raised:
        at.RemoteModel(**{"base_url": "http://localhost:1/v1", "model": "demo"} | arguments)
    assert "planted" not in str(raised.value)
