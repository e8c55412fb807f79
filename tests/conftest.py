"""Every annotation of the package is checked at run time in the tests; models and tokenizers are made on the spot."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import transformers.modeling_utils  # noqa: F401 - before the hook, which would compile all that it imports anew
from jaxtyping import install_import_hook

# Before anything of the package is imported.
install_import_hook("attribution", "beartype.beartype")

import pytest
import torch

import attribution
from attribution.cli import main
from attribution.models.local import LocalModel
from tests.tiny import tiny_model, tiny_tokenizer

# Tiny models gain nothing from threads, and lose much where other processes want the cores too.
torch.set_num_threads(1)


@pytest.fixture
def untyped():
    """As for a user who does not check types at run time: wrong arguments reach the functions themselves."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def demo() -> LocalModel:
    """The embedded model."""
    return attribution.load("demo")


@pytest.fixture(scope="session")
def llama() -> LocalModel:
    """A tiny random Llama with a BOS token."""
    return LocalModel(tiny_model("llama"), tiny_tokenizer(), name="tiny llama")


@pytest.fixture(scope="session")
def gpt2() -> LocalModel:
    """A tiny random GPT-2, whose tokenizer adds no BOS token."""
    return LocalModel(tiny_model("gpt2"), tiny_tokenizer(bos=False), name="tiny gpt2")


@pytest.fixture
def cli(untyped, capsys: pytest.CaptureFixture[str]):
    """Runs the entry point in this process: exit status, standard output and standard error."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        return (left.value.code or 0, *capsys.readouterr())

    return invoke
