"""The command line, in a process of its own where streams and exit status matter."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest

import attribution
from attribution.method import list_methods
from attribution.result import Attribution, Output, Unit
from tests.test_imports import loaded_after
from tests.test_result import result as small

PROMPT = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"

TWO = ("--method", "saliency", "--method", "leave_one_out")


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attribution", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.mark.slow
def test_explain() -> None:
    done = run("explain", PROMPT, "--why", "3")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "→ ⏎⏎The answer is 3.<eos>" in done.stdout
    assert "Strongest words for '3', in nats per unit of embedding:" in done.stdout
    assert "\x1b" not in done.stdout  # a pipe


def test_explain_as_json(cli) -> None:
    _, out, _ = cli("explain", PROMPT, "--json", "--method", "saliency", "--units", "token")
    content = json.loads(out)
    assert content["prompt"] == PROMPT
    assert content["method"]["name"] == "saliency"
    assert content["granularity"] == "token"
    assert len(content["scores"]) == len(content["outputs"])


def test_what_stands_in_for_the_default_is_shown_once_and_several_methods_are_a_list(cli) -> None:
    asked = ("explain", PROMPT, "--ablation", "mask", "--method", "default", "--method", "leave_one_out")
    found = json.loads(cli(*asked, "--json")[1])
    assert [each["method"]["name"] for each in found] == ["leave_one_out"]
    assert found[0]["notes"]["instead_of"].startswith("saliency, which takes nothing away")


def test_a_dry_run_and_a_budget(cli, tmp_path) -> None:
    status, out, _ = cli("explain", PROMPT, "--dry-run", "--method", "leave_one_out")
    assert status == 0
    assert out.startswith("leave_one_out: at most 18 forwards, ")
    _, out, _ = cli("explain", PROMPT, "--dry-run", "--json", "--ablation", "mask")
    assert (json.loads(out)["method"], json.loads(out)["forwards"]) == ("leave_one_out", 18)
    exact = ("--method", "leave_one_out")
    _, out, _ = cli("explain", PROMPT, "--max-forwards", "8", *exact)
    assert "partial: the budget ended first" in out
    assert "not looked into one by one: 10 words" in out
    path = str(tmp_path / "part.safetensors")
    cli("explain", PROMPT, "--max-forwards", "8", "--save", path, *exact)
    _, out, _ = cli("explain", PROMPT, "--resume", path)
    assert "partial" not in out
    assert " 11 forwards" in out
    status, _, err = cli("explain", PROMPT, "--max-seconds", "-1")
    assert (status, err) == (2, "attribution: Expected max_seconds as a number above 0, got -1.0.\n")


@pytest.mark.parametrize(
    ("typed", "shown"), [("delete", "delete"), ("mask", "mask"), ("replace:...", "Replace('...')")]
)
def test_meanings_of_absent(cli, typed: str, shown: str) -> None:
    status, out, _ = cli("explain", PROMPT, "--ablation", typed, "--method", "leave_one_out")
    assert status == 0
    assert f"absent: {shown}" in out.replace("\n", " ")
    status, _, err = cli("explain", PROMPT, "--ablation", "zero")
    assert status == 2
    assert "'delete', 'mask', or a Replace(...), got 'zero'" in err


def test_explain_a_given_output_and_save_it(cli, tmp_path) -> None:
    path = tmp_path / "r.safetensors"
    _, out, _ = cli("explain", PROMPT, "--output", "\n\nThe answer is 5.", "--save", str(path), "--target", "prob")
    assert "The answer is 5." in out
    saved = Attribution.load(path)
    assert saved.output == "\n\nThe answer is 5."
    assert saved.target == "prob"


def test_everything_is_written_that_is_asked(cli, tmp_path) -> None:
    names = [str(tmp_path / name) for name in ("r.safetensors", "r.html", "r.csv")]
    arguments = ("--save", names[0], "--html", names[1], "--csv", names[2])
    status, out, err = cli("explain", PROMPT, *arguments, "--why", "3", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["prompt"] == PROMPT
    result = Attribution.load(names[0])
    assert (tmp_path / "r.html").read_text("utf-8") == result.html_view("3").page()
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + result.scores.size
    for name in names:
        (tmp_path / name).unlink()
    status, out, err = cli("explain", PROMPT, *arguments, "--why", "typo")  # what was computed is not lost for that
    assert (status, out) == (2, "")
    assert "got 'typo'" in err
    assert (tmp_path / "r.html").read_text("utf-8") == result.html_view().page()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.csv", "r.html", "r.safetensors"]


def test_show(cli, tmp_path) -> None:
    path = str(tmp_path / "r.safetensors")
    told = cli("explain", PROMPT, "--save", path, "--why", "3")[1]
    assert cli("show", path, "--why", "3") == cli("show", path, "--target", "3") == (0, told, "")
    assert json.loads(cli("show", path, "--json")[1]) == Attribution.load(path).to_dict()
    names = [str(tmp_path / name) for name in ("r.html", "r.csv")]
    assert cli("show", path, "--why", "3", "--html", names[0], "--csv", names[1])[1] == told
    assert (tmp_path / "r.html").read_text("utf-8") == Attribution.load(path).html_view("3").page()
    assert (tmp_path / "r.csv").read_text("utf-8").count("\n") > 7
    assert "--why" in cli("show", "--help")[1]


def test_show_needs_no_torch(tmp_path) -> None:
    path = str(tmp_path / "r.safetensors")
    saved().save(path)
    command = ["show", path, "--html", f"{path}.html", "--csv", f"{path}.csv"]
    loaded = loaded_after(f"from attribution.cli import main\ntry:\n    main({command})\nexcept SystemExit:\n    pass")
    assert "typer" in loaded
    assert not loaded & {"torch", "transformers"}
    assert (tmp_path / "r.safetensors.html").is_file()


def test_a_long_prompt_is_shown_whole_where_that_is_asked(cli, tmp_path) -> None:
    path = str(tmp_path / "r.safetensors")
    prompt = "\n\n".join(f"Line {number} says nothing." for number in range(400))
    unit = Unit(prompt[:4], 0, 4, 0, 1, "prompt", special=False)
    rest = Unit(prompt[4:], 4, len(prompt), 1, 2, "rest", special=True)
    saved(prompt=prompt, units=(unit, rest), scores=np.array([[1, 0]], np.float32)).save(path)
    folded, whole = cli("show", path)[1], cli("show", path, "--full")[1]
    assert len(folded) < len(whole)
    assert "Line 200 says nothing." in whole
    assert "Line 200 says nothing." not in folded


def test_a_part_of_the_output_as_the_target(cli) -> None:
    assert cli("explain", PROMPT, "--target", "3") == cli("explain", PROMPT, "--why", "3")
    contrast = ("--instead", "5", "--json")
    assert cli("explain", PROMPT, "--target", "3", *contrast) == cli("explain", PROMPT, "--why", "3", *contrast)
    given = ("--output", "\n\nThe answer is 5.")
    assert cli("explain", PROMPT, *given, "--target", "5.") == cli("explain", PROMPT, *given, "--why", "5.")
    dry = cli("explain", PROMPT, "--target", "The answer", "--dry-run", "--method", "leave_one_out")[1]
    assert dry.startswith("leave_one_out: at most 18 forwards, ")
    assert "part of the output" in " ".join(cli("explain", "--help")[1].split())


def test_what_is_neither_a_target_nor_a_part_costs_nothing(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attribution.explainer.explain", lambda *_, **__: pytest.fail("computed"))
    status, out, err = cli("explain", PROMPT, "--target", "logprobs")
    assert (status, out) == (2, "")
    assert "out of logprob, prob, logit, entropy, semantic:overlap|exact|embedding, or a part of the output" in err
    assert "got 'logprobs'" in err


def test_several_methods(cli, tmp_path) -> None:
    both = ("--method", "leave_one_out", "--method", "attn_lrp")
    name = str(tmp_path / "r.html")
    status, out, err = cli("explain", PROMPT, *both, "--why", "3", "--html", name)
    assert (status, err) == (0, "")
    each = [cli("explain", PROMPT, "--method", method, "--why", "3")[1] for method in both[1::2]]
    assert out == "\n".join(each)
    for method in both[1::2]:
        assert method in (tmp_path / "r.html").read_text("utf-8")
    results = json.loads(cli("explain", PROMPT, *both, "--json")[1])
    assert [result["method"]["name"] for result in results] == ["leave_one_out", "attn_lrp"]
    assert results[0]["outputs"][0]["id"] == results[1]["outputs"][0]["id"]
    once = ("--method", "attn_lrp")
    assert cli("explain", PROMPT, *once, *once) == cli("explain", PROMPT, *once)


def saved(**changes) -> Attribution:
    """A small result; only what is asked of it is another."""
    one = {"outputs": (Output("Yo", 7, -0.5),), "output_scores": None, "scores": small().scores[:1]}
    return small(**one | changes)


def test_half_a_character_is_read_as_a_replacement_character(cli) -> None:
    status, out, _ = cli("explain", "hi \ud800 you", "--json", "--max-new-tokens", "1")
    assert status == 0
    content = json.loads(out)
    assert content["prompt"] == "hi \ud800 you"
    assert content["notes"]["half_characters"] == 1
    assert [unit["text"] for unit in content["units"] if not unit["special"]] == ["hi", "\ud800", "you"]


def test_fewer_tokens(cli) -> None:
    assert "→ ⏎⏎The\n" in cli("explain", PROMPT, "--max-new-tokens", "2")[1]


def test_prompt_from_standard_input(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO(PROMPT + "\n"))
    assert json.loads(cli("explain", "-", "--json")[1])["prompt"] == PROMPT


def test_methods(cli) -> None:
    _, out, _ = cli("methods")
    for method in list_methods():
        assert method.name in out
    listed = json.loads(cli("methods", "--json")[1])
    assert [method["name"] for method in listed] == [method.name for method in list_methods()]
    assert {method["name"]: method["options"] for method in listed}["saliency"] == {"norm": "l1"}


def test_version_and_help(cli) -> None:
    assert cli("--version") == (0, f"attribution {attribution.__version__}\n", "")
    assert "explain" in cli("--help")[1]
    assert "--max-new-tokens" in cli("explain", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", ""], "at least one word"),
        (["explain", PROMPT, "--method", "shap"], "got 'shap'"),
        (["explain", PROMPT, "--units", "letter"], "got 'letter'"),
        (["explain", PROMPT, "--target", "loss"], "got 'loss'"),
        (["explain", PROMPT, "--max-new-tokens", "0"], "got 0"),
        (["explain", PROMPT, "--max-new-tokens", "x"], "a valid integer"),
        (["explain", PROMPT, "--why", "7"], "Expected a part of the output"),
        (["explain", PROMPT, "--model", "/no/such/folder"], "No model could be loaded"),
        (["explain", PROMPT, "--save", "/no/such/folder/r"], "a folder that exists"),
        (["explain", PROMPT * 150], "at most 2048 tokens"),
        (["explain", PROMPT, "--save", "/tmp"], "the name of a file"),
        (["explain", PROMPT, "--save", ""], "the name of a file"),
        (["explain", PROMPT, "--model", "/tmp/\x1b]0;owned\x07no"], "␛]0;owned␇no"),
        (["explain", PROMPT, "--target", "prob", "--why", "7"], "Expected a part of the output"),
        (["explain", PROMPT, "--target", "3", "--why", "3"], "beside --why '3', got '3'"),
        (["explain", PROMPT, "--target", ""], "or a part of the output"),
        (["explain", PROMPT, "--target", "3", "--max-new-tokens", "0"], "got 0"),
        (["explain", PROMPT, "--html", "/no/such/folder/r"], "a folder that exists"),
        (["explain", PROMPT, "--csv", "/no/such/folder/r"], "a folder that exists"),
        (["explain", PROMPT, "--csv", "/tmp/r", "--html", "/tmp/../tmp/r"], "Expected another file for each kind"),
        (["explain", PROMPT, "--method", "saliency", "--method", "shap"], "got 'shap'"),
        (["explain", PROMPT, *TWO, "--save", "r"], "Expected no --save with several methods. Give --method once."),
        (["explain", PROMPT, *TWO, "--csv", "r", "--resume", "r", "--dry-run"], "no --csv, --resume, --dry-run with"),
        (["show", "/no/such.safetensors"], "No result can be read"),
        (["show", "/no/such.safetensors", "--html", "/no/such/folder/r"], "a folder that exists"),
        (["whatif", PROMPT, "--remove", "3", "--html", "/no/such/folder/r"], "a folder that exists"),
        (["compare", PROMPT, "x", "--html", "/no/such/folder/r"], "a folder that exists"),
        (["verify", "/no/such.safetensors", "--html", "/no/such/folder/r"], "a folder that exists"),
        (["explain"], "either a prompt or --chat FILE"),
        (["explode"], "No such command"),
    ],
)
def test_wrong_use_is_one_clear_message_and_status_2(cli, arguments: list[str], message: str) -> None:
    status, out, err = cli(*arguments)
    assert status == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert out == ""


def test_a_file_that_cannot_be_written(cli) -> None:
    status, out, err = cli("explain", PROMPT, "--save", "/proc/x")
    assert (status, out) == (2, "")
    assert err.startswith("attribution: The result cannot be written to '/proc/x'")


def test_a_fault_is_one_line_too(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_, **__):
        raise RuntimeError("out of \x1b[31mmemory")

    monkeypatch.setattr("attribution.explainer.explain", fail)
    assert cli("explain", PROMPT) == (1, "", "attribution: failed: RuntimeError: out of ␛[31mmemory\n")


@pytest.mark.slow
def test_wrong_use_in_a_process_of_its_own() -> None:
    done = run("explain", PROMPT, "--method", "shap")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("attribution: Expected a method out of")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_terminal_without_unicode() -> None:
    done = run("explain", PROMPT, "--max-new-tokens", "1", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "\\u2588" in done.stdout


@pytest.mark.slow
def test_a_pipe_that_closes_early() -> None:
    command = f"{sys.executable} -m attribution methods | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal(no_color: bool) -> None:
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"}
    environment = {key: value for key, value in environment.items() if key != "NO_COLOR"}
    if no_color:
        environment["NO_COLOR"] = "1"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "attribution", "explain", PROMPT, "--max-new-tokens", "3"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0
    assert (b"48;5;" in shown) is not no_color
    assert "→".encode() in shown
