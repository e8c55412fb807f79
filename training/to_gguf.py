"""The embedded model as llama.cpp reads it: `python -m training.to_gguf FILE`.

Same weights, same tokens, float32. llama.cpp knows pre-tokenizers by name only, and none of them is the embedded
model's. Of those it has, `bloom`'s divides a text where it matters to this model's merges, which join letters with
letters, newlines with newlines, and a space with one digit or a word in small letters. Other ids come out where
whitespace, two characters or more and no newline last, stands before a small letter or a digit, and where letters
follow `'s`: "two  spaces", "'swer". Whoever needs the same ids there sends ids.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from attribution.models.demo import FOLDER

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
)
"""What was said, and nothing else, an empty line between messages: a question reads as the model was taught it."""

# What llama.cpp calls the matrices of a layer.
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path) -> None:
    """Writes the embedded model, its tokenizer and `CHAT_TEMPLATE` to a file."""
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "gemma")
    writer.add_name("attribution demo")
    _add_shape(writer, config)
    _add_tokenizer(writer, tokenizer, config)
    for name, tensor in load_file(FOLDER / "model.safetensors").items():
        # Gemma's norms multiply by 1 + weight, llama.cpp's by the weight.
        stored = tensor + np.float32(1) if name.endswith("norm.weight") else tensor
        writer.add_tensor(_renamed(name), stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    special = {token["id"] for token in tokenizer["added_tokens"]}
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [gguf.TokenType.CONTROL if vocabulary[each] in special else gguf.TokenType.NORMAL for each in tokens]
    writer.add_tokenizer_model("gpt2")  # byte-level BPE, whoever the model is
    writer.add_tokenizer_pre("bloom")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_unk_token_id(vocabulary["<unk>"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _renamed(name: str) -> str:
    """The name that llama.cpp knows a tensor by."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, _, part = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
    return f"blk.{layer}.{_NAMES[part]}.weight"


def main() -> None:
    """Writes the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    write_gguf(parser.parse_args().file)


if __name__ == "__main__":
    main()
