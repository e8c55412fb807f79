"""The command line's experiments: what if, compare, verify; chats, units and contrasts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attribution.result import Attribution
from tests.templates import FAMILIES
from tests.test_cli import run
from tests.tiny import tiny_model
from tests.tokenizers_ import chat_tokenizer

APPLES = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"
ORANGES = APPLES.replace("many apples", "many oranges")
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi Tom. Who are you?"}]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory) -> str:
    """A folder with a model that has a chat template."""
    folder = str(tmp_path_factory.mktemp("chatty"))
    tiny_model("llama").save_pretrained(folder)
    chat_tokenizer(next(family for family in FAMILIES if family.name == "chatml")).save_pretrained(folder)
    return folder


def chat_file(folder: Path, content: object) -> str:
    path = folder / "chat.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_whatif(cli) -> None:
    edits = ("--remove", "Tom", "--replace", "/Sam/=>Ann", "--swap", "3=>5", "--move", "Tom has 5 oranges=>Sam has 3")
    status, out, err = cli("whatif", APPLES, *edits, "--rewrite", ORANGES, "--why", "3")
    assert (status, err) == (0, "")
    assert "'3' has -0.144 nats" in out
    for shown in ("without 'Tom'", "'Sam' (2 times) → 'Ann'", "'3' ⇄ '5'", "before 'Sam has 3'", "another prompt"):
        assert shown in out
    found = json.loads(cli("whatif", APPLES, *edits, "--why", "3", "--json")[1])
    assert [variant["changed"] for variant in found["variants"]][2] is True
    assert found["variants"][1]["prompt"] == APPLES.replace("Sam", "Ann")


def test_whatif_by_index(cli) -> None:
    found = json.loads(cli("whatif", APPLES, "--remove", "#1", "--units", "sentence", "--json")[1])
    assert found["variants"][0]["prompt"] == "How many apples does Sam have?"


def test_compare_prompts_methods_and_files(cli, tmp_path) -> None:
    prompts = cli("compare", APPLES, ORANGES, "--why", "3", "--method", "leave_one_out")
    assert prompts[0] == 0
    ranking = prompts[1][prompts[1].index("Largest differences for '3', in nats:") :]
    assert ranking.splitlines()[2].endswith("Sam (2 of 2)")
    methods = cli("compare", APPLES, "--method", "leave_one_out", "--method", "attn_lrp", "--why", "3")
    assert "attn_lrp" in methods[1]
    names = []
    for index, prompt in enumerate((APPLES, ORANGES)):
        names.append(str(tmp_path / f"{index}.safetensors"))
        assert cli("explain", prompt, "--method", "leave_one_out", "--save", names[-1])[0] == 0
    assert cli("compare", *names, "--why", "3")[1] == prompts[1]
    contrasts = json.loads(cli("compare", APPLES, ORANGES, "--why", "3", "--instead", "5", "--json")[1])
    assert contrasts["first"]["target"] == "logprob - '5' instead of '3'"
    mixed = json.loads(cli("compare", names[0], ORANGES, "--json")[1])
    # The one beside a saved result is explained as that was.
    assert [mixed[side]["method"]["name"] for side in ("first", "second")] == ["leave_one_out"] * 2
    assert mixed["second"]["prompt"] == ORANGES


@pytest.mark.slow
def test_compare_reads_standard_input_once_and_chats_from_files(cli, chatty: str, tmp_path) -> None:
    done = run("compare", "-", "--method", "leave_one_out", "--method", "attn_lrp", "--json", input=APPLES + "\n")
    assert json.loads(done.stdout)["second"]["prompt"] == APPLES
    name = chat_file(tmp_path, MESSAGES)
    both = ("--method", "saliency", "--method", "leave_one_out", "--max-new-tokens", "2", "--model", chatty)
    assert json.loads(cli("compare", name, *both, "--json")[1])["first"]["question"]["messages"] == MESSAGES


def test_what_was_computed_is_saved_whatever_is_asked_of_it(cli, tmp_path) -> None:
    name = str(tmp_path / "r.safetensors")
    status, _, err = cli("explain", APPLES, "--why", "typo", "--save", name)
    assert (status, "Expected a part of the output" in err) == (2, True)
    assert Attribution.load(name).prompt == APPLES


def test_parts_by_their_characters(cli) -> None:
    found = json.loads(cli("whatif", APPLES, "--remove", "@0:3", "--remove", "#-2", "--json")[1])
    assert [variant["prompt"] for variant in found["variants"]] == [APPLES[4:], APPLES.replace(" have", "")]


def test_verify(cli, tmp_path) -> None:
    name = str(tmp_path / "r.safetensors")
    cli("explain", ORANGES.replace("Sam have", "Tom have"), "--method", "leave_one_out", "--save", name)
    status, out, err = cli("verify", name, "--why", "5", "--top", "2")
    assert (status, err) == (0, "")
    assert "held for '5'" in out
    assert json.loads(cli("verify", name, "--why", "5", "--top", "2", "--json")[1])["held"] is True


def test_pages_of_experiments(cli, tmp_path) -> None:
    saved, page = str(tmp_path / "r.safetensors"), tmp_path / "r.html"
    cli("explain", APPLES, "--save", saved)
    for kind, arguments in (
        ("whatif", ("whatif", APPLES, "--swap", "3=>5")),
        ("comparison", ("compare", saved, APPLES, "--why", "3")),
        ("verification", ("verify", saved, "--n-random", "19")),
    ):
        assert cli(*arguments, "--html", str(page)) == cli(*arguments)
        assert f'"kind":"{kind}"' in page.read_text("utf-8")
        page.unlink()


def test_why_and_instead(cli) -> None:
    part = json.loads(cli("explain", APPLES, "--why", "3", "--instead", "5", "--json")[1])
    assert part["target"] == "logprob - '5' instead of '3'"
    whole = json.loads(cli("explain", APPLES, "--instead", "Nobody knows.", "--json")[1])
    assert whole["target"] == "logprob - 'Nobody knows.'"


def test_units_and_targets(cli) -> None:
    sentences = json.loads(cli("explain", APPLES, "--units", "sentence", "--json")[1])
    assert [unit["text"] for unit in sentences["units"] if not unit["special"]] == [
        "Sam has 3 apples and Tom has 5 oranges.",
        "How many apples does Sam have?",
    ]
    numbers = json.loads(cli("explain", APPLES, "--units", "[0-9]+", "--json")[1])
    assert [unit["text"] for unit in numbers["units"] if not unit["special"]] == ["3", "5"]
    semantic = json.loads(cli("explain", APPLES, "--units", "sentence", "--target", "semantic:exact", "--json")[1])
    assert semantic["target"] == "semantic exact"
    least = json.loads(cli("explain", APPLES, "--over-outputs", "min", "--json")[1])
    assert (least["target"], len(least["scores"])) == ("min of logprob", 1)


def test_chats(cli, chatty: str, tmp_path) -> None:
    for content in (MESSAGES, {"messages": MESSAGES, "options": {}}):
        name = chat_file(tmp_path, content)
        status, out, _ = cli("explain", "--chat", name, "--model", chatty, "--max-new-tokens", "2", "--json")
        assert status == 0
        units = json.loads(out)["units"]
        assert {unit["role"] for unit in units} == {"system", "user", "template"}
    found = cli(
        *("whatif", "--chat", name, "--model", chatty, "--max-new-tokens", "2"), "--remove", "Hi Tom.", "--json"
    )
    assert json.loads(found[1])["variants"][0]["prompt"][1]["content"] == "Who are you?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["whatif", APPLES], "Expected a change, got none"),
        (["whatif", APPLES, "--remove", "Ann"], "'Ann' does not stand in it"),
        (["whatif", APPLES, "--remove", "/(/"], "a regular expression between the slashes"),
        (["whatif", APPLES, "--swap", "3"], "an arrow between them"),
        (["whatif", "--remove", "Tom"], "either a prompt or --chat FILE"),
        (["compare", APPLES], "something to compare with"),
        (["compare", APPLES, "--method", "default", "--method", "saliency"], "something to compare with"),
        (["compare", APPLES, ORANGES, "--why", "1", "--why", "2", "--why", "3"], "once or twice"),
        (["compare", "/no/such.safetensors", ORANGES], "No result can be read"),
        (["compare", "a.safetensors", "--method", "leave_one_out", "--method", "saliency"], "no --method with saved"),
        (["compare", "a.safetensors", "b.safetensors", "--units", "token"], "no --units with saved results"),
        (["compare", "/no/such.json", ORANGES], "Expected messages as JSON"),
        (["verify", "/no/such.safetensors"], "No result can be read"),
        (["explain", APPLES, "--units", "sentences"], "Did you mean 'sentence'?"),
        (["explain", APPLES, "--target", "semantic:nearly"], "got 'nearly'"),
        (["explain", APPLES, "--instead", "5", "--target", "prob"], "--instead without --target"),
        (["explain", APPLES, "--why", "7", "--instead", "5"], "Expected a part of the output"),
        (["explain", APPLES, "--over-outputs", "max"], "got 'max'"),
        (["explain", APPLES, "--chat", "/no/such.json"], "either a prompt or --chat FILE"),
        (["explain", "--chat", "/no/such.json"], "Expected messages as JSON"),
    ],
)
def test_wrong_use_is_one_clear_message_and_status_2(cli, arguments: list[str], message: str) -> None:
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("attribution: ")
    assert message in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"chat": []}, "messages, tools and options"),
        ([], "at least one message"),
        ("Hi", "Expected messages as a list"),
        ([{"role": "user"}], "to have content"),
    ],
)
def test_files_that_hold_no_chat(cli, content: object, message: str, tmp_path) -> None:
    status, _, err = cli("explain", "--chat", chat_file(tmp_path, content))
    assert status == 2
    assert message in err.replace("\n", " ")


def test_a_model_without_a_template_names_the_plain_way(cli, tmp_path) -> None:
    status, _, err = cli("explain", "--chat", chat_file(tmp_path, MESSAGES))
    assert status == 2
    assert "no chat template" in err
    assert "as one string" in err.replace("\n", " ")
