"""Codec: between texts and the ids of a model's tokenizer, with the characters that every id stands for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

from attribution.errors import InputError, ModelError
from attribution.prompts.alignment import UNKNOWN, align
from attribution.prompts.chat import Chat
from attribution.prompts.marking import find_parts
from attribution.prompts.prompt import Encoding
from attribution.prompts.source import Source, Span

_SURROGATE = re.compile("[\ud800-\udfff]")
_HALF = "\N{REPLACEMENT CHARACTER}"
_SPACES = ("▁", "Ġ")  # how SentencePiece and byte-level tokenizers write one
_BYTES = 4  # that a character has at most
_CONTEXT = 8  # tokens that are enough for a tokenizer to know that it is not at the start of a text


class Codec:
    """A tokenizer, asked in one way whatever its kind; `vocabulary_size` says how many ids the model knows."""

    def __init__(self, tokenizer: Any, vocabulary_size: Callable[[], int]) -> None:
        self.tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size

    # Texts to ids

    def encode(self, text: str, *, add_special: bool = True) -> Encoding:
        """The tokens of a prompt; with `add_special` those too that the tokenizer adds (BOS), but none twice.

        Half a character (a lone surrogate) is read as a replacement character, in the same place. A tokenizer that does
        not tell which characters a token stands for is asked what it makes of the ids, and the two texts are aligned.
        """
        encoded = self._call(text, add_special)
        ids = self.check_ids(encoded["input_ids"])
        flags = encoded.get("special_tokens_mask")
        if "offset_mapping" in encoded:
            offsets = self._with_marks(text, ids, [(int(start), int(end)) for start, end in encoded["offset_mapping"]])
            special = tuple(bool(flag) and start == end for flag, (start, end) in zip(flags, offsets, strict=True))
            encoding = Encoding(ids, offsets, special)
        else:
            encoding = self._aligned(text, ids, add_special)
        bos = getattr(self.tokenizer, "bos_token_id", None)
        if bos is not None and ids[:2] == (bos, bos) and encoding.special[:2] == (True, False):
            # The text brings its own.
            return Encoding(ids[1:], encoding.offsets[1:], encoding.special[1:], encoding.aligned)
        return encoding

    def encode_source(self, source: Source) -> Encoding:
        """The tokens of what the model reads."""
        return self.encode(source.text, add_special=source.tokenizer_adds)

    def encode_output(
        self, prompt: str, prompt_ids: tuple[int, ...], output: str, *, add_special: bool = True
    ) -> tuple[int, ...]:
        """The ids of an output that follows a prompt.

        Both are tokenized together where that leaves the prompt's ids as they are, else the output by itself, or after
        a newline where the tokenizer would put a space before it. Raises `InputError` where none of them is the output.
        """
        together = self.encode(prompt + output, add_special=add_special).ids
        if together[: len(prompt_ids)] == prompt_ids and len(together) > len(prompt_ids):
            return together[len(prompt_ids) :]
        wanted = self.decode(prompt_ids) + output
        for before in ("", "\n"):
            lead = self.ids_of(before) if before else ()
            ids = self.ids_of(before + output)
            if ids[: len(lead)] == lead and self.decode([*prompt_ids, *ids[len(lead) :]]) == wanted:
                return ids[len(lead) :]
        raise InputError(
            f"Expected an output that this tokenizer can write after the prompt, got {output!r}. Pass its ids instead, "
            "for instance output=tokenizer(text, add_special_tokens=False)['input_ids']."
        )

    def ids_of(self, text: str) -> tuple[int, ...]:
        """The ids of a text by itself, without special tokens."""
        return self.check_ids(self.tokenizer(_whole(text), add_special_tokens=False)["input_ids"])

    def check_ids(self, ids: object) -> tuple[int, ...]:
        """The ids as integers that the embedding layer knows; `ModelError` otherwise."""
        try:
            known = tuple(int(i) for i in cast(Any, ids))
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"Expected the tokenizer to give a list of integer ids under 'input_ids', got {type(ids).__name__}."
            ) from error
        size = self._vocabulary_size()
        if known and not 0 <= min(known) <= max(known) < size:
            raise ModelError(
                f"The tokenizer gave id {max(known)} and the model's embedding has {size} rows. "
                "Pass the tokenizer that belongs to this model."
            )
        return known

    # Chats

    def render(self, chat: Chat) -> Source:
        """What the tokenizer's own template makes of a chat, and where in it the person's texts stand.

        Raises `InputError` where there is no template, and where the template refuses the chat.
        """
        template = chat.options.get("chat_template") or getattr(self.tokenizer, "chat_template", None)
        if not template:
            raise InputError(
                "This model's tokenizer has no chat template, so that it reads plain text only. Pass the prompt as one "
                "string, or set tokenizer.chat_template."
            )
        known = "".join(template.values()) if isinstance(template, dict) else str(template)
        return find_parts(chat, lambda messages, tools: self._apply(chat, messages, tools), known)

    def _apply(self, chat: Chat, messages: Any, tools: Any) -> str:
        options = {"continue_final_message": chat.continues, "add_generation_prompt": not chat.continues}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tools=tools, tokenize=False, **(options | dict(chat.options))
                )
            )
        except Exception as error:  # a template is a program, and fails in whatever way it likes
            raise InputError(f"The model's chat template refuses this chat: {error}") from error

    # Ids to texts

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens written out, nothing cleaned up."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def output_texts(self, prompt: Sequence[int], output: Sequence[int]) -> list[str]:
        """The text that each id of the output adds to what comes before it.

        A character that is split over several tokens belongs to the first of them; the others add nothing. Bytes that
        are no character are each a replacement character.
        """
        texts = [""] * len(output)
        window = self._window(prompt)
        written, opened, first = self.decode(window), 0, -1
        for end in range(1, len(output) + 1):
            added = self.decode([*window, *output[opened:end]])[len(written) :]
            if added and first < 0:
                size = len(added.encode(errors="surrogatepass"))
                hides_bytes = len(added) == 1 and size <= end - opened  # until the last of a character
                first = end - size if hides_bytes else end - 1
            if not added or (added.endswith(_HALF) and end < len(output)):
                continue
            whole = added.lstrip(_HALF)
            if first < end - 1 and 0 < len(whole) < len(added):  # bytes that never became a character, and others
                alone = (at for at in range(end - 1, first, -1) if self.decode(output[at:end]) == whole)
                texts[first], texts[next(alone, end - 1)] = added.removesuffix(whole), whole
            else:
                texts[first] = added
            window = self._window([*window, *output[opened:end]])
            written, opened, first = self.decode(window), end, -1
        return texts

    def alternative_texts(
        self, prompt: Sequence[int], output: Sequence[int], others: Sequence[Sequence[int]]
    ) -> list[list[str]]:
        """For each id of the output, the texts that other ids would add in its place.

        One that would end a character which is split over several tokens has all of that character. One that the
        tokenizer has no text for, since the embedding has more rows than it has tokens, adds nothing.
        """
        reach = _CONTEXT + 2 * _BYTES
        ids = [*prompt[-reach:], *output]
        found: list[list[str]] = []
        for place, given in enumerate(others, len(ids) - len(output)):
            before = ids[max(0, place - reach) : place]
            opened = next((n for n in range(_BYTES) if not self._text_of(before[: len(before) - n]).endswith(_HALF)), 0)
            begun, window = before[len(before) - opened :], self._window(before[: len(before) - opened])
            written = self.decode(window)
            texts: list[str] = []
            for other in given:
                try:
                    added = self.decode([*window, *begun, other])[len(written) :]
                    texts.append(self.output_texts(window, [*begun, other])[-1] or added if begun else added)
                except (IndexError, KeyError, TypeError, ValueError):  # tokenizers of Python fail in ways of their own
                    texts.append("")
            found.append(texts)
        return found

    def _text_of(self, ids: Sequence[int]) -> str:
        """The end of what the ids say."""
        return self.decode(self._window(ids))

    def _window(self, ids: Sequence[int]) -> list[int]:
        """The last ids, as many as tell how the text goes on; they begin with a whole character."""
        counts = range(_CONTEXT, _CONTEXT + _BYTES)
        whole = (count for count in counts if not self.decode(ids[-count:]).startswith(_HALF))
        return list(ids[-next(whole, _CONTEXT) :])

    # Special ids

    @property
    def start_id(self) -> int:
        """The id that stands for "no text so far": BOS, or where there is none the end of the text before.

        Raises `ModelError` where the tokenizer has neither.
        """
        for attribute in ("bos_token_id", "eos_token_id"):
            found = getattr(self.tokenizer, attribute, None)
            if found is not None:
                return int(found)
        raise ModelError(
            "Everything before the output is to be removed, and this tokenizer has neither a BOS nor an EOS token to "
            "start from. Keep at least one unit, or set tokenizer.bos_token."
        )

    @property
    def padding_id(self) -> int:
        """The id of the padding token; `InputError` where the tokenizer has none."""
        found = getattr(self.tokenizer, "pad_token_id", None)
        if found is None:
            raise InputError('This tokenizer has no padding token. Use baseline="zero", or set tokenizer.pad_token.')
        return self.check_ids([found])[0]

    def _call(self, text: str, add_special: bool) -> Any:
        wanted = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        if not getattr(self.tokenizer, "is_fast", False):
            wanted = {}
        return self.tokenizer(_whole(text), add_special_tokens=add_special, **wanted)

    def _with_marks(self, text: str, ids: tuple[int, ...], offsets: list[Span]) -> tuple[Span, ...]:
        """The offsets; empty for a space that the tokenizer put before a word, and that it says is the word's."""
        for index, ((start, end), (following, _)) in enumerate(pairwise(offsets)):
            if start == following < end and not text[start:end].isspace():
                piece = str(self.tokenizer.convert_ids_to_tokens(ids[index]))
                offsets[index] = (start, start) if piece in _SPACES else (start, end)
        return tuple(offsets)

    def _aligned(self, text: str, ids: tuple[int, ...], add_special: bool) -> Encoding:
        """The encoding of a tokenizer without offsets: what the ids say, aligned with the text.

        What the tokenizer adds is told by comparing with what it gives without special tokens.
        """
        plain = self.ids_of(text) if add_special else ids
        first = next((at for at in range(len(ids) - len(plain) + 1) if ids[at : at + len(plain)] == plain), 0)
        special = tuple(not first <= index < first + len(plain) for index in range(len(ids)))
        said = self.output_texts((), plain)
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        said = [UNKNOWN if token == unknown else piece for token, piece in zip(plain, said, strict=True)]
        offsets = [(0, 0)] * first + _offsets(_whole(text), said)
        offsets += [(len(text), len(text))] * (len(ids) - len(offsets))
        return Encoding(ids, tuple(offsets), special, aligned=True)


def _whole(text: str) -> str:
    """The text with a replacement character for every half of one, which tokenizers cannot read."""
    return _SURROGATE.sub(_HALF, text)


def _offsets(text: str, said: Sequence[str]) -> list[Span]:
    """The characters of a text that pieces of another, which says the same, stand for."""
    places = align(text, "".join(said))
    following = [len(text)] * (len(places) + 1)
    for at in range(len(places) - 1, -1, -1):
        following[at] = following[at + 1] if places[at] < 0 else places[at]
    offsets: list[Span] = []
    reached = at = 0
    for piece in said:
        known = [place for place in places[at : at + len(piece)] if place >= 0]
        at += len(piece)
        start, end = (known[0], known[-1] + 1) if known else (reached, reached)
        if piece == UNKNOWN:
            end = start + len(text[start : max(start, following[at])].rstrip())
        while end > start and unicodedata.combining(text[end : end + 1] or " "):
            end += 1
        offsets.append((start, end))
        reached = end
    return offsets
