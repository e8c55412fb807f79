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

from benchmarks.questions import LAST_WORD, MARKERS

LOUDNESS = 3.0
"""How strongly the model of the shape "planted" looks at its causes and hears them."""

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


def _planted() -> Any:
    """A tiny model in which the five `MARKERS` are causes by design; all else about it is random.

    Each marker has a dimension of the embedding that no other word has anything in, and all words share a further one.
    In the first block queries read the shared dimension and keys those of the markers, in the pair of dimensions that
    positions turn least, so that every token looks at the markers before it and hardly at anything else. It hears
    something else from each of them. So without one marker all that follows is different, and without any other word
    it is nearly as it was.
    """
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=LAST_WORD,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=1,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        )
    )
    of_markers, shared = slice(0, len(MARKERS)), len(MARKERS)
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        length = embeddings.norm(dim=1).mean()
        embeddings[:, of_markers] = 0
        embeddings[:, shared] = length
        embeddings[list(MARKERS), of_markers] = length * torch.eye(len(MARKERS))
        attention = model.model.layers[0].self_attn
        least_turned = [attention.head_dim // 2 - 1, attention.head_dim - 1]  # a pair is half a head apart
        for projection, read in ((attention.q_proj, shared), (attention.k_proj, of_markers)):
            projection.weight[least_turned] = 0
            projection.weight[least_turned[0], read] = LOUDNESS
        attention.v_proj.weight[:, of_markers] *= LOUDNESS
    return model


SHAPES: dict[str, tuple[Callable[[], Any], torch.dtype]] = {
    "gpt2": (_gpt2, torch.float32),
    "llama": (_llama, torch.float32),
    "gemma-2b": (_gemma_2b, torch.bfloat16),
    "planted": (_planted, torch.float32),
}
"""By name: what builds the model, and the precision of its weights."""
