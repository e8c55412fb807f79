"""The command line, in a process of its own where streams and exit status matter."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

import attribution
from attribution.method import list_methods
from attribution.result import Attribution

PROMPT = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attribution", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


def test_explain() -> None:
    done = run("explain", PROMPT, "--why", "3")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "→ ⏎⏎The answer is 3.<eos>" in done.stdout
    assert "Strongest words for '3', in nats:" in done.stdout
    assert "\x1b" not in done.stdout  # a pipe


def test_explain_as_json(cli) -> None:
    _, out, _ = cli("explain", PROMPT, "--json", "--method", "saliency", "--units", "token")
    content = json.loads(out)
    assert content["prompt"] == PROMPT
    assert content["method"]["name"] == "saliency"
    assert content["granularity"] == "token"
    assert len(content["scores"]) == len(content["outputs"])


def test_a_dry_run_and_a_budget(cli, tmp_path) -> None:
    status, out, _ = cli("explain", PROMPT, "--dry-run")
    assert status == 0
    assert out.startswith("at most 18 forwards, ")
    _, out, _ = cli("explain", PROMPT, "--dry-run", "--json")
    assert json.loads(out)["forwards"] == 18
    _, out, _ = cli("explain", PROMPT, "--max-forwards", "8")
    assert "partial: the budget ended first" in out
    assert "not looked into one by one: 10 words" in out
    path = str(tmp_path / "part.safetensors")
    cli("explain", PROMPT, "--max-forwards", "8", "--save", path)
    _, out, _ = cli("explain", PROMPT, "--resume", path)
    assert "partial" not in out
    assert " 11 forwards" in out
    status, _, err = cli("explain", PROMPT, "--max-seconds", "-1")
    assert (status, err) == (2, "attribution: Expected max_seconds as a number above 0, got -1.0.\n")


@pytest.mark.parametrize(
    ("typed", "shown"), [("delete", "delete"), ("mask", "mask"), ("replace:...", "Replace('...')")]
)
def test_meanings_of_absent(cli, typed: str, shown: str) -> None:
    status, out, _ = cli("explain", PROMPT, "--ablation", typed)
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


def test_half_a_character_is_read_as_a_replacement_character(cli) -> None:
    status, out, _ = cli("explain", "hi \ud800 you", "--json", "--max-new-tokens", "1")
    assert status == 0
    content = json.loads(out)
    assert content["prompt"] == "hi \ud800 you"
    assert content["notes"]["half_characters"] == 1
    assert [unit["text"] for unit in content["units"] if not unit["special"]] == ["hi", "\ud800", "you"]


def test_fewer_tokens(cli) -> None:
    assert "→ ⏎⏎The\n" in cli("explain", PROMPT, "--max-new-tokens", "2")[1]


@pytest.mark.slow
def test_prompt_from_standard_input() -> None:
    done = run("explain", "-", "--json", input=PROMPT + "\n")
    assert json.loads(done.stdout)["prompt"] == PROMPT


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
        (["explain", PROMPT * 60], "at most 512 tokens"),
        (["explain", PROMPT, "--save", "/tmp"], "the name of a file"),
        (["explain", PROMPT, "--save", ""], "the name of a file"),
        (["explain", PROMPT, "--model", "/tmp/\x1b]0;owned\x07no"], "␛]0;owned␇no"),
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
