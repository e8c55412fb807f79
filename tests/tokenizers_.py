"""Tokenizers of every kind, the same in every process: what each adds, drops and cannot say of its tokens' places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from math import log
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from tests.templates import Family
from tests.tiny import VOCABULARY

_TEXT = (
    "Sam has 3 apples and Tom has 5 oranges.",
    "How many apples does Sam have? The answer is 3.",
    "user: You are kind.\nassistant: Thank you!\nsystem: Be brief.",
    "日本の本です。",
    "Où est la crème brûlée ?",
    "Мир и труд.",
    "שלום עולם",
)
_KNOWN = _TEXT[:4]  # all of whose words, or characters, are known to a tokenizer that has not room for more
_ENDS = ["<pad>", "</s>", "<s>"]  # the ids that the tiny models take for padding, EOS and BOS
_BERT = ["[PAD]", "[SEP]", "[CLS]", "[UNK]"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _wrapped(tokenizer: Tokenizer, **names: str) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers takes it; what it decodes stays as it is."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def _begun(tokenizer: Tokenizer, bos: str) -> None:
    """Lets the tokenizer begin with its BOS token wherever special tokens are asked for."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def _byte_level(special_tokens: list[str], *, prefix: bool = False) -> Tokenizer:
    """A BPE over bytes, which knows every text; with a prefix, the first word begins with a space too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return tokenizer


@cache
def chat_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the family's template and special tokens; it begins with BOS where the family has one."""
    names = {"pad_token": "<pad>", "eos_token": family.eos} | ({"bos_token": family.bos} if family.bos else {})
    tokenizer = _byte_level(list(dict.fromkeys([*names.values(), *family.special_tokens])))
    if family.bos:
        _begun(tokenizer, family.bos)
    chats = _wrapped(tokenizer, **names)
    chats.chat_template = family.template
    return chats


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's: a space belongs to the word after it."""
    return _wrapped(_byte_level(["<|endoftext|>"]), eos_token="<|endoftext|>")


@cache
def byte_level_prefixed() -> PreTrainedTokenizerFast:
    """As RoBERTa's, with a space before the first word that the text does not have; no token's place holds a space."""
    tokenizer = _byte_level(_ENDS, prefix=True)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=True)
    return _wrapped(tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


@cache
def unigram() -> PreTrainedTokenizerFast:
    """As SentencePiece's: normalised, spaces in a row are one, each word begins with a mark; the rest is unknown."""
    counts = Counter(f"▁{word}" for line in _TEXT for word in line.split()) + Counter("▁".join(_TEXT).replace(" ", "▁"))
    pieces = [(piece, 0.0) for piece in [*_ENDS, "<unk>"]]
    pieces += [(piece, log(count / counts.total())) for piece, count in sorted(counts.items())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=len(_ENDS)))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return _wrapped(tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>")


def _llama(**how: Any) -> PreTrainedTokenizerFast:
    """A BPE over characters that falls back to bytes, with the normaliser or pre-tokenizer that marks its spaces."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    for part, value in how.items():
        setattr(tokenizer, part, value)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    alphabet = sorted({"▁", *"".join(_KNOWN)} - {" ", "\n"})
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*_ENDS, "<unk>", *_BYTES],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    # By words, since nothing cuts a line: so no token holds two of them.
    tokenizer.train_from_iterator(" ".join(_TEXT).split(), trainer)
    _begun(tokenizer, "<s>")
    return _wrapped(tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@cache
def metaspace() -> PreTrainedTokenizerFast:
    """As Llama's: spaces are marks, and so is the beginning of the text, but not what follows a special token."""
    return _llama(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False))


@cache
def prepended() -> PreTrainedTokenizerFast:
    """As Llama's was at first: a mark is written before the text, and before whatever follows a special token."""
    marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    return _llama(normalizer=normalizers.Sequence(marks))


@cache
def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT's: lower case without accents, no token for white space, and an unknown word is one token."""
    normalizer, cutter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = [word for line in _KNOWN for word, _ in cutter.pre_tokenize_str(normalizer.normalize_str(line))]
    characters = sorted(set("".join(words)))
    known = [*_BERT, *sorted({*words, *characters}), *(f"##{character}" for character in characters)]
    tokenizer = Tokenizer(models.WordPiece({token: index for index, token in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(_BERT)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, cutter, decoders.WordPiece()
    return _wrapped(tokenizer, pad_token="[PAD]", sep_token="[SEP]", cls_token="[CLS]", unk_token="[UNK]")


@cache
def character() -> PreTrainedTokenizerFast:
    """Each character is a token, white space too; those that the training text lacks are unknown."""
    known = [*_ENDS, "<unk>", *sorted(set("".join(_TEXT)))]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(known)}, unk_token="<unk>"))
    tokenizer.add_special_tokens([*_ENDS, "<unk>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrapped(tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@cache
def slow_tokenizer() -> ByT5Tokenizer:
    """A tokenizer in Python over bytes, which needs no files, ends with EOS and cannot say where its tokens stand."""
    return ByT5Tokenizer(extra_ids=0)


FAMILIES_OF_TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "byte_level_prefixed": byte_level_prefixed,
    "unigram": unigram,
    "metaspace": metaspace,
    "prepended": prepended,
    "wordpiece": wordpiece,
    "character": character,
}
