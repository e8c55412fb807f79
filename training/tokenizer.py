"""The embedded model's tokenizer: byte-level BPE in which every digit is a token of its own."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.families import draw_family_document
from training.possessions import draw_document

VOCABULARY_SIZE = 1024
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids 0 to 3, in Gemma's order

# Runs of newlines, single digits, words, and runs of anything else. Digits and words in small letters take the space
# before them along; a capital starts a token of its own, so that a name is the same token wherever it stands.
_PIECES = r"\n+| ?\p{N}| ?\p{Ll}\p{L}*|\p{L}+|'s| ?[^\s\p{L}\p{N}]+|[^\S\n]+"


def train_tokenizer(random: Random, documents: int = 20_000) -> PreTrainedTokenizerFast:
    """Learns the merges from freshly drawn training documents. Any text can be encoded: all 256 bytes are tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(random, documents), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    pad, eos, bos, unk = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=eos,
        bos_token=bos,
        unk_token=unk,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _texts(random: Random, documents: int) -> Iterator[str]:
    for index in range(documents):
        yield (draw_family_document(random) if index % 2 else draw_document(random)).text
