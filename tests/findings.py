"""Findings to be shown: small ones made by hand with numbers that are known, others that the embedded model gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

import attribution as at
from attribution.models.local import LocalModel
from attribution.result import Attribution, Interaction, Output, Unit
from attribution.views.web.html import HtmlView
from attribution.views.web.payload import result_payload

QUESTION = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have?"

PIECES = ("Ann", " has", " 3", " red", " app", "les", ".", "\n", "Bob", " has", " 5", ".", "\n\n")
PIECES += ("How", " many", " does", " Ann", " have", "?")
WRITTEN = ("Ann", " has", " 3", " app", "les", ".", "\n", "Bob", " 5", ".")

NAMES = ("<s>", "Ann (1 of 2)", "has (1 of 2)", "3", "red", "app", "les", ". (1 of 2)", "⏎", "Bob", "has (2 of 2)")
NAMES += ("5", ". (2 of 2)", "⏎⏎", "How", "many", "does", "Ann (2 of 2)", "have", "?")
"""What the units of `made` are called."""


def owners(pieces: Sequence[str]) -> list[dict[str, int]]:
    """Which word, sentence, line and paragraph each piece belongs to."""
    found = []
    own = {"word": -1, "sentence": 0, "line": 0, "paragraph": 0}
    for index, piece in enumerate(pieces):
        if piece[0] in " \n." or index == 0 or pieces[index - 1][-1].isspace():
            own["word"] += 1
        found.append(dict(own))
        if "\n" in piece or piece == ".":
            own["sentence"] += piece == "."
        own["line"] += piece.count("\n")
        own["paragraph"] += piece.count("\n\n")
    return found


def units_of(pieces: Sequence[str], **changes: Sequence[Any]) -> tuple[Unit, ...]:
    """The units that tile a prompt, after a token that the tokenizer added."""
    units, start = [Unit("<s>", 0, 0, 0, 1, "special", special=True)], 0
    for index, (piece, inside) in enumerate(zip(pieces, owners(pieces), strict=True)):
        own = {name: values[index] for name, values in changes.items()}
        place = {"start": start, "end": start + len(piece), "first_token": index + 1, "last_token": index + 2}
        units.append(Unit(piece, **place, **{"role": "prompt", "special": False, "inside": inside} | own))
        start += len(piece)
    return tuple(units)


def outputs_of(pieces: Sequence[str], likely: float = 0.6) -> tuple[Output, ...]:
    """Output tokens whose probabilities fall, each beside two others that the model could have written."""
    found = []
    for index, (piece, inside) in enumerate(zip(pieces, owners(pieces), strict=True)):
        own = float(np.log(likely / (1 + index)))
        others = ((" else", float(np.log(0.2))), ("", float(np.log(0.05))))
        ranked = sorted([(piece, own), *others], key=lambda each: -each[1])
        found.append(Output(piece, index, own, tuple(ranked), inside))
    return tuple(found)


def numbers(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Scores of both signs, few of them strong, the first (of a special unit) strongest of all."""
    drawn = np.random.default_rng(seed).standard_normal((rows, columns)) ** 3 / 2
    drawn[:, 0] = 9
    return drawn.astype(np.float32)


def made(pieces: Sequence[str] = PIECES, written: Sequence[str] = WRITTEN, **changes: Any) -> Attribution:
    """A result with tokens for units: a special one, two lines and two paragraphs, and an output of several lines."""
    units = units_of(pieces)
    parts = {
        "scores": numbers(len(written), len(units)),
        "output_scores": np.tril(numbers(len(written), len(written), 1), -1) / 3,
        "units": units,
        "outputs": outputs_of(written),
        "prompt": "".join(pieces),
        "granularity": "token",
        "method": {"name": "leave_one_out", "options": {"window": 1}, "signed": True, "unit": "nats"},
        "target": "logprob",
        "ablation": "delete",
        "seed": 7,
        "model": {"name": "made", "architecture": "Made", "dtype": "float32", "revision": "abc123"},
        "cost": {"forwards": 20, "backwards": 3, "tokens": 400},
        "versions": {"attribution": "0.1.0"},
    }
    return Attribution(**parts | changes)


def unsigned(**changes: Any) -> Attribution:
    """The same by a method whose scores have no sign."""
    method = {"name": "saliency", "options": {}, "signed": False, "unit": "nats per unit of embedding"}
    return made(scores=np.abs(numbers(10, 20, 2)), output_scores=None, method=method, **changes)


def sampled(**changes: Any) -> Attribution:
    """The same with standard errors."""
    errors = np.abs(numbers(10, 20, 3)) / 20 + np.float32(0.01)
    return made(errors=errors, method=dict(made().method) | {"name": "kernel_shap"}, **changes)


def paired() -> Attribution:
    """The same with units that do something together: one pair for, one against."""
    strong = tuple(0.5 if row == 2 else 0.1 for row in range(10))
    weak = tuple(-value / 2 for value in strong)
    return made(interactions=(Interaction(3, 17, strong), Interaction(1, 5, weak)))


def whole() -> Attribution:
    """The same with one row of scores, for the output as a whole."""
    return made(scores=numbers(1, 20), output_scores=None, per_output=False)


def weak(factor: float = 1e-4) -> Attribution:
    """The same with next to nothing in it."""
    return made(scores=made().scores * np.float32(factor), output_scores=None)


def clipped() -> Attribution:
    """300 words that do the same, but for one that does far more, and another that does the contrary."""
    scores = np.full((2, 301), 0.5, np.float32)
    scores[:, 8], scores[:, 150] = 25, -10
    pieces = ["word0", *(f" word{index}" for index in range(1, 300))]
    return made(pieces, ("a", " b"), scores=scores, output_scores=None)


def long(words: int = 3_000) -> Attribution:
    """Words in lines of twelve and paragraphs of ten lines; what matters is in the middle and at the end."""
    pieces = []
    for index in range(words):
        after = "\n\n" if index % 120 == 119 else "\n" if index % 12 == 11 else " "
        pieces.append(f"word{index}{'.' if index % 24 == 23 else ''}{after}")
    scores = np.zeros((3, words + 1), np.float32)
    for row, hit in enumerate((words // 2, words - 20, 40)):
        scores[row, hit + 1], scores[row, hit + 2], scores[row, hit + 5] = 3, -2, 1
    return made(pieces, ("one", " two", " three"), scores=scores, output_scores=None)


def chat() -> Attribution:
    """A chat of three messages with names for two parts; what the template wrote is special."""
    said = ("<user>", "Ann", " has", " 3", " apples", "\n<assistant>", "Good", "!", "\n<user>", "How", " many", "?")
    roles = ["template" if piece.strip()[0] == "<" else "user" for piece in said]
    roles[6] = roles[7] = "assistant"
    messages = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    names = ["", "who", "", "count", "count", "", "", "", "", "", "", ""]
    units = units_of(
        said,
        role=roles,
        special=[role == "template" for role in roles],
        message=[None if role == "template" else owner for role, owner in zip(roles, messages, strict=True)],
        name=names,
    )
    return made(said, WRITTEN, units=units, scores=numbers(10, 13, 4), output_scores=None)


def right_to_left() -> Attribution:
    """Hebrew, with a number and an English word in it, above a line of English."""
    pieces = ("לדני", " יש", " 3", " תפוחים", " apples", ".", "\n", "How", " many", "?")
    return made(pieces, ("לדני", " 3"), scores=numbers(2, 11, 5), output_scores=None)


def page_of(*found: Any, outputs: Any = None) -> str:
    """The page of results of one question, or of what an experiment found."""
    if isinstance(found[0], Attribution):
        return found[0].html_view(outputs, others=found[1:]).page()
    return found[0].html_view().page()


def experiments(demo: LocalModel) -> dict[str, Any]:
    """What each experiment finds about a question, with the embedded model."""
    first = at.explain(demo, QUESTION, method="leave_one_out")
    second = at.explain(
        demo, QUESTION.replace("How many apples does Sam", "How many oranges does Tom"), method="leave_one_out"
    )
    return {
        "comparison": at.compare(first, second),
        "shares": at.compare(first, at.explain(demo, QUESTION, output=first.output, method="saliency")),
        "verification": at.verify(demo, first, 1),
        "whatif": at.whatif(demo, QUESTION, [at.Edit.replace("3", "7"), at.Edit.remove("Tom")]),
        "counterfactuals": at.counterfactuals(demo, QUESTION, {"3": ["4"], "5": ["4"]}),
    }


def view_of(found: Attribution, **changes: Any) -> HtmlView:
    """The page's view of a result whose payload has something else in it."""
    return HtmlView(result_payload([found.to_dict()], range(len(found.outputs))) | changes)


def without(found: Attribution, output: int) -> Attribution:
    """The same, where nothing is known of how probable this output was."""
    outputs = list(found.outputs)
    outputs[output] = dataclasses.replace(outputs[output], logprob=-np.inf)
    return dataclasses.replace(found, outputs=tuple(outputs))
