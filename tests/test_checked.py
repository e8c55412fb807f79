"""What the tests check of every call in the package is checked: types, shapes, results and the fields of data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import beartype.roar
import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from attribution.models.local import LocalModel
from attribution.outputs import find_outputs
from attribution.planted.confirmation import confirm
from attribution.planted.scores import auroc
from attribution.prompts.prompt import Encoding
from attribution.result import Attribution
from tests.test_result import result

WRONG_TYPE = (TypeCheckError, beartype.roar.BeartypeCallHintViolation)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda model: find_outputs(["a"], 1.5),
        lambda model: confirm(model, "a prompt"),
        lambda model: Encoding("ids", (), ()),
        lambda model: result().total(3.5),
        lambda model: model.check_length(3, output="4"),
        lambda model: LocalModel.check_length(model, None, 4),
        lambda model: Attribution.load(3),
        lambda model: auroc([0.5], np.array([True])),
        lambda model: auroc(np.array([0.5]), np.array([1.0])),
    ],
)
def test_a_wrong_type_is_an_error(wrong: Callable[[Any], Any], llama: LocalModel) -> None:
    with pytest.raises(WRONG_TYPE):
        wrong(llama)


def test_a_wrong_shape_is_an_error(llama: LocalModel) -> None:
    """Of one argument, and of two that do not go together."""
    with pytest.raises(TypeCheckError):
        llama.logits(torch.tensor([1, 2]))
    with pytest.raises(TypeCheckError):
        auroc(np.array([0.5, 1.0]), np.array([True]))


def test_a_wrong_result_is_an_error(llama: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "name", 3)
    with pytest.raises(WRONG_TYPE):
        llama.describe()


@pytest.mark.usefixtures("untyped")
def test_users_are_not_checked() -> None:
    assert Encoding("ids", (), ()).ids == "ids"
