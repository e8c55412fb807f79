"""Edits: how a prompt is changed to see what changes, in the person's own text, before any template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from attribution.errors import InputError
from attribution.prompts.chat import Chat
from attribution.prompts.prompt import Prompt, check_prompt
from attribution.prompts.rendered import Rendered
from attribution.prompts.writing import Stretch, Where, Writing, Written, check_part, find, listed, places, text_of

Kind = Literal["remove", "replace", "swap", "move", "rewrite"]

_PARTS = {"remove": 1, "replace": 1, "swap": 2, "move": 2, "rewrite": 0}
_BREAK = re.compile(r"\r\n|\r|\n")
_CLOSING = ".,;:!?)"  # what a space is not left before


@dataclass(frozen=True)
class Edit:
    """A change of a prompt: make one with `remove`, `replace`, `swap`, `move` or `rewrite`.

    Parts of the prompt are given as `Where` says; `remove` and `replace` take several at once where a regular
    expression matches several. White space around a part is not part of it, and what stands between parts goes with
    one of them: the white space that follows a part goes along with it; where the part is the last of its line, of its
    paragraph or of the text, the white space before it. A part that begins a line takes its indentation along where
    the whole line goes.

    Raises `InputError` for a kind, a part, a text or a prompt that is none.
    """

    kind: Kind
    parts: tuple[Where, ...] = ()
    text: str = ""
    prompt: Written | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(
                f"Expected a kind of edit out of {', '.join(_PARTS)}, got {self.kind!r}. Type Edit.remove('Tom')."
            )
        count = _PARTS[self.kind]
        if not isinstance(self.parts, tuple) or len(self.parts) != count:
            raise InputError(
                f"Expected {('no parts', 'one part', 'two parts')[count]} to {self.kind}, as a tuple, got "
                f"{self.parts!r}. Make it with Edit.{self.kind}(...)."
            )
        object.__setattr__(self, "parts", tuple(map(check_part, self.parts)))
        if self.kind == "replace" and not (isinstance(self.text, str) and self.text):
            raise InputError(
                f"Expected a text to stand in the part's place, got {self.text!r}. To remove it: Edit.remove."
            )
        if self.kind == "rewrite":
            _check_asked(self.prompt)

    @classmethod
    def remove(cls, part: Where) -> Edit:
        """The part is gone, and the white space that goes along with it: what is left stands as it stood."""
        return cls("remove", (part,))

    @classmethod
    def replace(cls, part: Where, text: str) -> Edit:
        """Another text stands in the part's place, within the same white space."""
        if isinstance(part, str) and isinstance(text, str) and part.strip():
            # White space that both are typed with is that around the part.
            before, after = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
            text = text.removeprefix(before).removesuffix(after)
        return cls("replace", (part,), text)

    @classmethod
    def swap(cls, one: Where, other: Where) -> Edit:
        """Two parts change places; the white space around both stays where it is."""
        return cls("swap", (one, other))

    @classmethod
    def move(cls, part: Where, before: Where) -> Edit:
        """The part stands before another one, and between them the white space that went along with it; else a space.

        So words stay words of a line, and paragraphs paragraphs: of "a b c" comes "c a b", of three lines three lines.
        """
        return cls("move", (part, before))

    @classmethod
    def rewrite(cls, prompt: Written) -> Edit:
        """Another prompt, written by hand."""
        return cls("rewrite", prompt=prompt)


def apply(edit: Edit, writing: Writing, prompt: Prompt) -> tuple[Written, str]:
    """The changed prompt, and what was changed in words. `prompt` has the units that indices mean.

    Raises `InputError` where a part is not there, or not there once.
    """
    if edit.kind == "rewrite":
        return cast(Written, edit.prompt), "another prompt"
    found = [find(part, writing, prompt) for part in edit.parts]
    shown = [_shown(stretches, writing) for stretches in found]
    if edit.kind == "remove":
        return _without(found[0], writing), f"without {shown[0]}"
    if edit.kind == "replace":
        return writing.edited(dict.fromkeys(found[0], edit.text)), f"{shown[0]} → {edit.text!r}"
    for stretches, words in zip(found, shown, strict=True):
        if len(stretches) > 1:
            raise InputError(
                f"Expected one place for each part to {edit.kind}, got {words}. Give the characters of one: "
                f"{listed(stretches)}."
            )
    (one,), (other,) = found
    if one[0] == other[0] and max(one[1], other[1]) < min(one[2], other[2]):
        raise InputError(
            f"Expected two parts that do not overlap, got {shown[0]} and {shown[1]}. Give the characters of each: they "
            f"are {listed([one])} and {listed([other])}."
        )
    if edit.kind == "swap":
        return writing.edited({one: text_of(other, writing), other: text_of(one, writing)}), " ⇄ ".join(shown)
    return _moved(one, other, writing), " before ".join(shown)


def _check_asked(prompt: object) -> None:
    """Raises `InputError` where this is no prompt."""
    if isinstance(prompt, str):
        check_prompt(prompt)
    elif isinstance(prompt, Sequence) and not isinstance(prompt, (bytes, bytearray)):
        Chat(prompt)
    elif not isinstance(prompt, (Chat, Rendered)):
        raise InputError(
            f"Expected another prompt, got {prompt!r}. Give a text, the messages of a chat, a Chat or a Rendered."
        )


def _without(stretches: Sequence[Stretch], writing: Writing) -> Written:
    """The prompt without stretches that are in order: the last goes first, so that each finds what then follows it."""
    texts = dict(writing.texts)
    for index in reversed(range(len(stretches))):
        address, start, end = stretches[index]
        before = stretches[index - 1] if index else None
        floor = before[2] if before is not None and before[0] == address else 0
        start, end, _ = _cut(texts[address], start, end, floor)
        texts[address] = texts[address][:start] + texts[address][end:]
    return writing.remake(texts)


def _moved(one: Stretch, other: Stretch, writing: Writing) -> Written:
    """The prompt with the one before the other; a line goes before the whole line, its indentation too."""
    start, end, text = _cut(writing.texts[one[0]], one[1], one[2])
    target = other[1]
    if _breaks(text[len(text.rstrip()) :]):
        target -= len(_indent(_space_before(writing.texts[other[0]], target), target))
    return writing.edited({(one[0], start, end): "", (other[0], target, target): text})


def _cut(text: str, start: int, end: int, floor: int = 0) -> tuple[int, int, str]:
    """What goes with a part, as `Edit` says: its first character, the one behind it, and how it stands elsewhere.

    Characters before `floor` are another part's.
    """
    own = text[start:end]
    if not own.strip():
        return start, end, own
    before = _space_before(text, start, floor)
    tail = text[end:]
    after = tail[: len(tail) - len(tail.lstrip())]
    is_first, is_last = len(before) == start, len(after) == len(tail)
    indent = _indent(before, start)
    if after and not is_last and (is_first or (before and _breaks(after) <= _breaks(before))):
        if _breaks(after):  # a whole line: what follows keeps its indentation
            start, after = start - len(indent), after[: len(after) - len(_BREAK.split(after)[-1])]
        end += len(after)
        return start, end, text[start:end]
    if before and not is_first and (after or is_last or (tail[0] in _CLOSING and not _breaks(before))):
        return start - len(before), end, indent + own + before[: len(before) - len(indent)]
    return start, end, own + " "


def _space_before(text: str, start: int, floor: int = 0) -> str:
    head = text[floor:start]
    return head[len(head.rstrip()) :]


def _indent(before: str, start: int) -> str:
    """What of the white space before a part indents its line; nothing where no line begins with it."""
    return _BREAK.split(before)[-1] if len(before) == start or _breaks(before) else ""


def _breaks(space: str) -> int:
    """How strongly white space parts: 0 within a line, 1 between lines, 2 and more between paragraphs."""
    return len(_BREAK.findall(space))


def _shown(stretches: Sequence[Stretch], writing: Writing) -> str:
    """The stretches' texts; which of several places with the same text is meant, by its number, where not all are."""
    by_text: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        by_text.setdefault(text_of(stretch, writing), []).append(stretch)
    words: list[str] = []
    for text, own in by_text.items():
        everywhere = {stretch: number for number, stretch in enumerate(places(text, writing), start=1)}
        numbers = ", ".join(str(everywhere[stretch]) for stretch in own)
        is_all = len(own) == len(everywhere)
        times = f" ({len(own)} times)" * (len(own) > 1)
        words.append(repr(text) + (times if is_all else f" ({numbers} of {len(everywhere)})"))
    return " and ".join(words)
