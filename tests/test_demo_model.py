"""The embedded model: what its card says holds."""

from __future__ import annotations

import re
from random import Random

import pytest

from attribution.models.demo import FOLDER
from attribution.models.local import LocalModel
from attribution.planted.families import FAMILIES, draw
from attribution.planted.words import NAMES, THINGS
from training.evaluate import accuracy, continued
from training.possessions import draw_held_out_question

PROMPT = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"


def test_it_answers_the_question_of_the_demo(demo: LocalModel) -> None:
    ids = demo.generate(demo.codec.encode(PROMPT).ids, 20)
    assert demo.codec.decode(ids) == "\n\nThe answer is 3.<eos>"


@pytest.mark.slow
def test_it_reads_the_number(demo: LocalModel) -> None:
    """Not by heart: whatever number stands there is the answer."""
    right = 0
    for number in range(100):
        apples = "1 apple" if number == 1 else f"{number} apples"
        ids = demo.generate(demo.codec.encode(PROMPT.replace("3 apples", apples)).ids, 20)
        right += demo.codec.decode(ids) == f"\n\nThe answer is {number}.<eos>"
    assert right >= 98


@pytest.mark.slow
def test_held_out_questions(demo: LocalModel) -> None:
    """On a sample other than the card's; 99% in truth would fail this once in 10,000 samples."""
    random = Random("tests")
    questions = [draw_held_out_question(random) for _ in range(300)]
    assert accuracy(demo.model, demo.tokenizer, questions) >= 0.965


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_families(family: str, demo: LocalModel) -> None:
    """97% are asked of it; that much in truth would fail this once in 400 samples."""
    drawn = [draw(family, Random(f"tests {family} {index}")) for index in range(50)]
    texts = [(each.prompt, each.output) for each in drawn]
    assert sum(continued(demo.model, demo.tokenizer, texts, batch=8 if family == "needle" else 50)) >= 45


def test_the_card_states_the_measured_share() -> None:
    share = re.search(r"\*\*(\d+\.\d)%\*\* of 1,000 held-out questions", (FOLDER / "CARD.md").read_text())
    assert share
    assert float(share[1]) >= 99


@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_states_the_share_of_each_family(family: str) -> None:
    share = re.search(rf"^\| `{family}` \| (\d+\.\d)% \|", (FOLDER / "CARD.md").read_text(), re.M)
    assert share
    assert float(share[1]) >= 97


def test_it_is_small_and_safe() -> None:
    files = [file for file in FOLDER.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 6_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md", ".py"}


def test_it_is_of_the_gemma_architecture(demo: LocalModel) -> None:
    assert demo.describe()["architecture"] == "GemmaForCausalLM"
    assert demo.model.config.tie_word_embeddings


@pytest.mark.parametrize(
    "text",
    ["é😀 naïve", "日本語", "def f(x):\r\n\treturn x", "\x00\x1b[1m", "  two  spaces ", "Sam's 42 apples", "٣ ௩ Ⅷ"],
)
def test_any_text_can_be_encoded(text: str, demo: LocalModel) -> None:
    ids = demo.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert demo.tokenizer.unk_token_id not in ids
    assert demo.codec.decode(ids) == text


def test_every_digit_is_a_token_of_its_own(demo: LocalModel) -> None:
    for token in demo.tokenizer.get_vocab():
        digits = [character for character in token if character.isdigit() and character.isascii()]
        assert len(digits) <= 1
        if digits:
            assert token.removeprefix("Ġ") == digits[0]


def test_names_and_things_are_single_tokens(demo: LocalModel) -> None:
    for word in (*NAMES, *(f" {thing}" for thing in THINGS)):
        assert len(demo.tokenizer(word, add_special_tokens=False)["input_ids"]) == 1, word
