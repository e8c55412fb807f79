"""Random models in the shapes of known ones, and a tokenizer by which all libraries read the same ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

PAD = 1
"""The id whose embedding is zero in every model: the way to name a zero baseline to a library that takes ids only."""

SPECIAL = ("<unk>", "<pad>", "<eos>", "<bos>")
"""The words of the first ids. None is the beginning of another word: special tokens are cut out of any text first."""


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer in which token i is the word "wi", apart from a few special ones; it adds nothing to a text."""
    words = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), size))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


def build_model(shape: str, device: str) -> Any:
    """A model of this shape with random weights: the same ones in every process of a machine."""
    build, dtype = SHAPES[shape]
    usual = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = build().eval()
    finally:
        torch.set_default_dtype(usual)
    with torch.no_grad():
        model.get_input_embeddings().weight[PAD] = 0
    return model


def _gpt2() -> Any:
    """124M parameters: 12 layers, 768 wide."""
    return GPT2LMHeadModel(GPT2Config())


def _llama() -> Any:
    """Llama's architecture in GPT-2's size: 134M parameters, 12 layers, 768 wide, 12 heads."""
    return LlamaForCausalLM(
        LlamaConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=2048)
    )


def _gemma_2b() -> Any:
    """The shape of google/gemma-2b, 2.5B parameters; GemmaConfig's own defaults are those of the 7B."""
    return GemmaForCausalLM(
        GemmaConfig(
            hidden_size=2048,
            num_hidden_layers=18,
            num_attention_heads=8,
            num_key_value_heads=1,
            head_dim=256,
            intermediate_size=16384,
        )
    )


SHAPES: dict[str, tuple[Callable[[], Any], torch.dtype]] = {
    "gpt2": (_gpt2, torch.float32),
    "llama": (_llama, torch.float32),
    "gemma-2b": (_gemma_2b, torch.bfloat16),
}
"""By name: what builds the model, and the precision of its weights."""
