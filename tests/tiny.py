"""Tiny random models of every architecture family, and a tokenizer trained on the spot."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.overrides import TorchFunctionMode
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from attribution.models.local import LocalModel

VOCABULARY = 320
WINDOW = 96

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.2,  # large enough that different inputs give clearly different outputs
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}

_FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "gemma": (GemmaForCausalLM, GemmaConfig, {"head_dim": 8}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 5.0}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {"head_dim": 8, "sliding_window": 8}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 8}),
    "phi3": (Phi3ForCausalLM, Phi3Config, {}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {}),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, {}),
    "mixtral": (MixtralForCausalLM, MixtralConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
}

ARCHITECTURES = tuple(_FAMILIES)


@cache
def tiny_model(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of the family with random weights, always the same ones, in evaluation mode."""
    kind, config, own = _FAMILIES[family]
    shape = dict(_SHAPE)
    if family == "gpt2":
        renamed = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
        shape = {renamed.get(key, key): value for key, value in shape.items() if key != "intermediate_size"}
        shape["n_positions"] = shape.pop("max_position_embeddings")
        del shape["num_key_value_heads"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config(**shape, **own)).to(dtype).eval()
    if family == "mixtral" and dtype == torch.float64:
        model.set_experts_implementation("eager")  # the grouped product has no float64
    return model


@cache
def tiny_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens that encodes any text; every digit is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sentence = "Sam has 3 apples and Tom has 5 oranges. How many apples does Sam have? The answer is 3."
    tokenizer.train_from_iterator([sentence] * 10, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>"} | ({"bos_token": "<bos>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


@cache
def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE that marks the start of words, as SentencePiece does, and falls back to bytes; it adds no BOS token."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<pad>", "<eos>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["Sam has 3 apples and Tom has 5 oranges. The answer is 3."] * 10, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", clean_up_tokenization_spaces=False
    )


class InFloat64(TorchFunctionMode):
    """Models of float64 stay in it: transformers computes norms, rotations and some softmaxes in float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        wide = {torch.float32: torch.float64}
        args = tuple(wide.get(a, a) if isinstance(a, torch.dtype) else a for a in args)
        kwargs = {k: wide.get(a, a) if isinstance(a, torch.dtype) else a for k, a in (kwargs or {}).items()}
        return (torch.Tensor.double if func is torch.Tensor.float else func)(*args, **kwargs)


def local(family: str, dtype: torch.dtype = torch.float32) -> LocalModel:
    """The family's model with a byte-level tokenizer, as the engines take it."""
    return LocalModel(tiny_model(family, dtype), tiny_tokenizer())


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Whether the largest difference is small relative to the largest entry."""
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
