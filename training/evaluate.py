"""How many held-out questions a model answers: `python -m training.evaluate FOLDER`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attribution.planted.families import FAMILIES, draw
from training.possessions import Question, draw_held_out_question


def right(model: Any, tokenizer: Any, questions: Sequence[Question], batch: int = 50) -> list[bool]:
    """Whether the model's greedy continuation is exactly the answer and then the end of the text, per question."""
    return continued(model, tokenizer, [(question.prompt, question.answer) for question in questions], batch)


def continued(model: Any, tokenizer: Any, texts: Sequence[tuple[str, str]], batch: int = 50) -> list[bool]:
    """Whether the model continues each prompt greedily by exactly the text that goes with it, and then ends."""
    results = [False] * len(texts)
    by_length = sorted(range(len(texts)), key=lambda index: len(texts[index][0]))
    for start in range(0, len(by_length), batch):
        group = by_length[start : start + batch]
        prompts = [texts[index][0] for index in group]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
        longest = max(len(ids) for ids in tokenizer([texts[index][1] for index in group])["input_ids"])
        with torch.no_grad():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=longest + 1)
        for index, row in zip(group, ids[:, inputs["input_ids"].shape[1] :], strict=True):
            written = tokenizer.decode(row).split("<pad>")[0]
            results[index] = written == texts[index][1] + "<eos>"
    return results


def accuracy(model: Any, tokenizer: Any, questions: Sequence[Question]) -> float:
    """The share of `questions` that is answered right."""
    return sum(right(model, tokenizer, questions)) / len(questions)


def family_accuracies(model: Any, tokenizer: Any, *, count: int, seed: str) -> dict[str, float]:
    """The share of prompts of each family that are continued right, of `count` that are drawn with held-out pairs."""
    found: dict[str, float] = {}
    for family in FAMILIES:
        random = Random(f"{seed} {family}")
        drawn = [draw(family, random) for _ in range(count)]
        batch = 8 if family == "needle" else 50
        results = continued(model, tokenizer, [(planted.prompt, planted.output) for planted in drawn], batch)
        found[family] = sum(results) / count
    return found


def main() -> None:
    """The command line: shares for all questions and for groups of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wrong", action="store_true", help="print the questions that were answered wrongly")
    arguments = parser.parse_args()
    tokenizer: Any = AutoTokenizer.from_pretrained(arguments.folder)
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32)
    model.eval()
    random = Random(f"test {arguments.seed}")
    questions = [draw_held_out_question(random) for _ in range(arguments.questions)]
    answers = right(model, tokenizer, questions)
    groups: dict[str, Callable[[Question], bool]] = {
        "all": lambda q: True,
        "two people": lambda q: q.people == 2,
        "three people": lambda q: q.people == 3,
        "four people": lambda q: q.people == 4,
        "name and thing both needed": lambda q: q.needs_name and q.needs_thing,
    }
    for name, chosen in groups.items():
        group = [answer for answer, question in zip(answers, questions, strict=True) if chosen(question)]
        print(f"{name:28s} {sum(group):5d} of {len(group)}  {100 * sum(group) / max(1, len(group)):.1f}%")
    for family, share in family_accuracies(model, tokenizer, count=arguments.questions // 4, seed="test").items():
        print(f"{family:28s} {100 * share:.1f}% of {arguments.questions // 4}")
    if arguments.wrong:
        for answer, question in zip(answers, questions, strict=True):
            if not answer:
                print(repr(question.prompt), question.fact.number)


if __name__ == "__main__":
    main()
