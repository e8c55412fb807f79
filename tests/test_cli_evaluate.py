"""`attribution evaluate FILE.jsonl`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from attribution.commands.evaluation import read_samples
from attribution.faithfulness.samples import Sample
from attribution.prompts.chat import Chat

pytestmark = pytest.mark.slow

PROMPT = "Sam has 3 apples. How many apples does Sam have?"

QUICK = ("--method", "saliency", "--metric", "morf")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    lines = [
        {"prompt": PROMPT, "output": "\n\nThe answer is 3.", "outputs": "3"},
        {"prompt": PROMPT},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return path


def test_a_file_is_evaluated_and_gone_on_with(cli, file: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("e.html", "e.csv", "e.md")]
    options = [part for pair in zip(("--html", "--csv", "--markdown"), map(str, outputs), strict=True) for part in pair]
    status, out, err = cli("evaluate", str(file), *QUICK, *options)
    assert (status, "absent: delete" in out, "absent: mask" in out) == (0, True, True)
    journal = tmp_path / "prompts.evaluation.jsonl"
    assert str(journal) in err
    assert "2 prompts" in out
    lines = journal.read_bytes()
    assert len(lines.splitlines()) == 1 + 2 * 4
    assert "<table>" in outputs[0].read_text()
    with outputs[1].open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 2 * 4 * 2
    assert outputs[2].read_text().startswith("evaluation of demo")
    status, out, err = cli("evaluate", str(file), *QUICK, "--json")
    content = json.loads(out)
    assert status == 0
    assert journal.read_bytes() == lines
    values = {(str(row["prompt"]), row["method"], row["absent"]): row["value"] for row in content["rows"]}
    assert values == {(row["prompt"], row["method"], row["absent"]): float(row["value"]) for row in rows}
    assert not [row for row in content["rows"] if row["reason"]]
    status, out, err = cli("evaluate", str(file), *QUICK, "--seed", "1")
    assert (status, out) == (2, "")
    assert "got another seed" in err
    other = tmp_path / "other"
    status, _, err = cli("evaluate", str(file), *QUICK, "--seed", "1", "--journal", str(other))
    assert (status, other.exists()) == (0, True)


def test_texts_and_chats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    messages = [{"role": "user", "content": PROMPT}]
    path.write_text(json.dumps({"prompt": messages, "outputs": "3"}) + '\r\n{"prompt": "é", "output": null}')
    assert read_samples(path) == [Sample(Chat(messages), outputs="3"), Sample("é")]


def test_meanings_of_absent_are_typed(cli, file: Path) -> None:
    arguments = ("--ablation", "mask", "--ablation", "replace:...", "--target", "prob", "--units", "sentence")
    status, out, _ = cli("evaluate", str(file), *QUICK, *arguments)
    assert status == 0
    assert "absent: mask" in out
    assert "absent: Replace('...')" in out
    status, _, err = cli("evaluate", str(file), *QUICK, "--ablation", "mask", "--journal", str(file.with_suffix(".j")))
    assert status == 2
    assert "two meanings" in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "expected JSON"),
        (b"\xff", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"3", "a dict with a prompt"),
        (b'{"text": "x"}', "a dict with a prompt"),
        (b'{"prompt": "x", "answer": 1}', "got 'answer' too"),
        (b'{"prompt": "x", "output": 3}', "output as a text, got 3"),
        (b'{"prompt": "x", "outputs": [1]}', "outputs as a text, got [1]"),
        (b'{"prompt": 3}', "the prompt as a text or a list of messages, got 3"),
        (b'{"prompt": " "}', "at least one word"),
        (b'{"prompt": [3]}', "line 3: "),
    ],
)
def test_a_line_that_is_wrong_is_named(cli, tmp_path: Path, line: bytes, told: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "one"}\n\n' + line + b"\n")
    status, out, err = cli("evaluate", str(path), *QUICK)
    assert (status, out) == (2, "")
    assert err.startswith("attribution: ")
    assert "line 3: " in err
    assert told in err
    assert len(list(tmp_path.iterdir())) == 1  # nothing was begun


def test_files_that_are_wrong(cli, file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    for arguments, told in [
        ((str(tmp_path / "missing.jsonl"),), "cannot be read"),
        ((str(tmp_path),), "cannot be read"),
        ((str(file), "--csv", str(file)), "another file for each kind"),
        ((str(file), "--journal", str(file)), "another file for each kind"),
        ((str(file), "--html", str(tmp_path / "no" / "e.html")), "a folder that exists"),
        ((str(file), "--metric", "nonsense"), "a metric out of"),
        ((str(file), "--method", "nonsense"), "a method out of"),
    ]:
        status, out, err = cli("evaluate", *arguments)
        assert (status, out) == (2, "")
        assert told in err
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    status, _, err = cli("evaluate", str(empty))
    assert status == 2
    assert "a prompt a line" in err
    assert file.read_bytes() == content
