"""Planted: a prompt whose causes are known, and the changes of it that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["cause", "irrelevant", "template", "open"]
"""What a part is to the answer: it decides it; it says something else; it is a word of the pattern, in whose place
others would do; or no change of it alone can show which."""


@dataclass(frozen=True)
class Part:
    """Characters `start` to `end` of the prompt, or of the output where `written`, and what they are to the answer."""

    start: int
    end: int
    kind: Kind
    name: str
    """What it is in the story, such as "number" or "name asked"."""
    written: bool = False


@dataclass(frozen=True)
class Change:
    """Other texts for some parts, by their index, that make another prompt of the same family.

    `answer` is what is right then. `tested` are the parts that this says something about: they are causes where the
    answer is another, irrelevant where it is the same.
    """

    texts: Mapping[int, str]
    answer: str
    tested: tuple[int, ...]


@dataclass(frozen=True)
class Planted:
    """A prompt, its right output, and which parts made it so.

    What lies in no part is the template: the words that are there whatever is asked.
    """

    family: str
    prompt: str
    output: str
    """The right continuation, without the token that ends it."""
    answer: tuple[int, int]
    """The characters of the output whose causes are asked: the answer, where it first stands."""
    parts: tuple[Part, ...]
    """In the order of the prompt, then of the output."""
    changes: tuple[Change, ...]
    units: str = "word"
    """What it is to be explained in."""
    repeated: tuple[tuple[int, int], ...] = ()
    """The characters of the output in which the answer stands again, behind where it first does."""

    @property
    def answered(self) -> str:
        """The answer itself."""
        return self.output[slice(*self.answer)]

    def changed(self, change: Change) -> tuple[str, str]:
        """The prompt and its right output with this change made."""
        own = [(self.parts[index], text) for index, text in change.texts.items()]
        asked = {(part.start, part.end): text for part, text in own if not part.written}
        written = {(part.start, part.end): text for part, text in own if part.written}
        written |= dict.fromkeys((self.answer, *self.repeated), change.answer)
        return _spliced(self.prompt, asked), _spliced(self.output, written)


def _spliced(text: str, others: Mapping[tuple[int, int], str]) -> str:
    """The text with others in the place of these stretches of it, which do not overlap."""
    for (start, end), other in sorted(others.items(), reverse=True):
        text = text[:start] + other + text[end:]
    return text


@dataclass(frozen=True, eq=False)
class Slot:
    """A place in a story that may be filled otherwise.

    `others` are texts that may stand there alone, and the answer that each then leads to.
    """

    text: str
    kind: Kind
    name: str
    others: Mapping[str, str] = field(default_factory=dict[str, str])


Piece = str | Slot
ANSWER = "{}"
"""In a reply, where the answer stands, once or again."""
REPLY: tuple[Piece, ...] = ("\n\nThe answer is ", ANSWER, ".")


def plant(
    family: str,
    pieces: Sequence[Piece],
    answer: str,
    *,
    reply: Sequence[Piece] = REPLY,
    exchanges: Sequence[tuple[Mapping[Slot, str], str, Sequence[Slot]]] = (),
    units: str = "word",
) -> Planted:
    """The planted prompt that these pieces make, one after the other, and `reply` after them.

    An exchange changes several slots at once: their new texts, the answer then, and which of them it puts to the test.
    """
    parts: list[Part] = []
    index_of: dict[Slot, int] = {}
    whole = ["", ""]
    answers: list[tuple[int, int]] = []
    for written, some in enumerate((pieces, reply)):
        for piece in some:
            text = piece.text if isinstance(piece, Slot) else answer if piece == ANSWER else piece
            start, end = len(whole[written]), len(whole[written]) + len(text)
            if isinstance(piece, Slot):
                index_of[piece] = len(parts)
                parts.append(Part(start, end, piece.kind, piece.name, bool(written)))
            elif piece == ANSWER:
                answers.append((start, end))
            whole[written] += text
    changes = [
        Change({index: text}, other, (index,))
        for slot, index in index_of.items()
        for text, other in slot.others.items()
    ]
    changes += [
        Change({index_of[slot]: text for slot, text in texts.items()}, other, tuple(index_of[slot] for slot in tested))
        for texts, other, tested in exchanges
    ]
    return Planted(
        family=family,
        prompt=whole[0],
        output=whole[1],
        answer=answers[0],
        parts=tuple(parts),
        changes=tuple(changes),
        units=units,
        repeated=tuple(answers[1:]),
    )
