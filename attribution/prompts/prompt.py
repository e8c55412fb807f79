"""Prompt: the text that is asked about, its tokens, and the units that scores are given to."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise

from attribution.errors import InputError
from attribution.prompts.source import Part, Source, Span, seen, text_source
from attribution.prompts.units import Division, Segment, cuts_of

LEVELS = ("message", "paragraph", "line", "sentence", "word")
"""What units belong to, from coarse to fine."""


@dataclass(frozen=True)
class Encoding:
    """A text as a tokenizer sees it; one entry per token in each field.

    `offsets` are character spans in the text; a special token that the tokenizer added (BOS) has an empty one. They are
    `aligned` where the tokenizer does not tell them, and they were found by comparing texts.
    """

    ids: tuple[int, ...]
    offsets: tuple[Span, ...]
    special: tuple[bool, ...]
    aligned: bool = False


@dataclass(frozen=True)
class PromptUnit:
    """A part of the prompt that gets one score.

    `characters` tile the prompt's text, `tokens` its ids. `special` units stay when others are absent: what the
    tokenizer or the template added, and what lies outside of the spans that were asked about; `role` says which, or
    whose text it is. `part` is the index of the part of the prompt that it stands in.
    """

    characters: Span
    tokens: Span
    special: bool
    role: str = "prompt"
    name: str = ""
    part: int | None = None


@dataclass(frozen=True)
class Prompt:
    """A text with its tokens and its units. The units tile text and tokens: no gap, no overlap, in order."""

    text: str
    encoding: Encoding
    units: tuple[PromptUnit, ...]
    parts: tuple[Part, ...] = ()
    """What a person wrote of it; empty where that is all."""
    tokenizer_adds: bool = True
    """Whether the tokenizer added its special tokens to it."""

    def unit_text(self, unit: PromptUnit) -> str:
        """The unit's own characters; empty for a special token."""
        start, end = unit.characters
        return self.text[start:end]

    def span_of(self, unit: PromptUnit) -> Span:
        """The characters that a unit stands for: its own; for a later token of a split character, that character's."""
        start, end = unit.characters
        if start < end or unit.role == "special":
            return start, end
        first, last = self.encoding.offsets[unit.tokens[0]]
        if first < last:
            return first, last
        before = bisect_right(self.units, unit.tokens[0], key=lambda other: other.tokens[1]) - 1
        while before >= 0 and self.units[before].role != "special":
            first, last = self.units[before].characters
            if first < last:
                return last - 1, last
            before -= 1
        return start, end

    @property
    def swallowed(self) -> tuple[Part, ...]:
        """What a person wrote that no token belongs to: each begins before it, in what the template wrote."""
        held = {unit.part for unit in self.units}
        return tuple(
            part
            for index, part in enumerate(self.parts)
            if index not in held and self.text[part.start : part.end].strip()
        )


def check_prompt(text: object) -> str:
    """`text` itself where it is a text with something in it; `InputError` otherwise."""
    if not isinstance(text, str):
        raise InputError(f"Expected the prompt as a string, got {type(text).__name__}. Pass one text.")
    if not text.strip():
        raise InputError("Expected a prompt with at least one word, got an empty one. Pass the text to explain.")
    return text


def divide(source: Source, encoding: Encoding, division: Division) -> Prompt:
    """The prompt divided into units.

    A token belongs to the unit that holds its first visible character, a token of white space alone to the unit of its
    first character. A character that a tokenizer split over several tokens belongs to the first of them, and these
    belong together unless units are tokens. Special tokens are units of their own, and so is what a template wrote
    between two texts. Other text that no token stands for goes with the unit before it.

    Raises `InputError` where nothing of a person's text is left after tokenization, where the division does not fit
    the text, and where a span was asked about that no token belongs to.
    """
    if all(encoding.special):
        raise InputError(f"Expected a prompt with at least one token, but the tokenizer made none of {source.text!r}.")
    segments = division.segments(source)
    starts = [segment.start for segment in segments]
    spans = _without_overlap(encoding)
    owners = [bisect_right(starts, place) - 1 for place in _places(seen(source.text, source.parts), encoding, spans)]
    _check_owners(source, division, segments, {o for o, s in zip(owners, encoding.special, strict=True) if not s})
    units: list[PromptUnit] = []
    last_ordinary = max(index for index, special in enumerate(encoding.special) if not special)
    reached = first = 0
    for last in range(1, len(owners) + 1):
        special = encoding.special[first]
        alone = special or division.name == "token"
        if last < len(owners) and not alone and not encoding.special[last] and owners[last] == owners[first]:
            continue
        segment = segments[owners[first]]
        end = len(source.text)
        if last <= last_ordinary:
            # What no token covers goes with what follows it, within the segment's own bounds.
            following = segments[owners[last]].start if owners[last] != owners[first] else spans[last - 1][1]
            end = min(max(following, spans[last - 1][1]), max(spans[last][0], spans[last - 1][1]))
        if special:
            unit = PromptUnit((reached, reached), (first, last), True, "special")
            end = reached
        else:
            unit = PromptUnit((reached, end), (first, last), segment.special, segment.role, segment.name, segment.part)
        units.append(unit)
        reached, first = end, last
    return Prompt(source.text, encoding, tuple(units), source.parts, source.tokenizer_adds)


def nesting(prompt: Prompt) -> dict[str, list[int | None]]:
    """For each of `LEVELS`, which one every unit belongs to, counted through the prompt; None where to none.

    A unit belongs to where its first token does, by the rule of `divide`. Texts without messages are one each.
    """
    parts = prompt.parts or text_source(prompt.text).parts
    by_token = _places(seen(prompt.text, parts), prompt.encoding, _without_overlap(prompt.encoding))
    places = [by_token[unit.tokens[0]] for unit in prompt.units]
    inside = [not unit.special or unit.role == "rest" for unit in prompt.units]
    at = [bisect_right(parts, place, key=lambda part: part.start) - 1 for place in places]
    changes = (a.message is None or a.message != b.message for a, b in pairwise(parts))
    messages = list(accumulate(changes, initial=0))
    found: dict[str, list[int | None]] = {
        "message": [messages[part] if own else None for part, own in zip(at, inside, strict=True)]
    }
    for level in LEVELS[1:]:
        cuts = [cuts_of(prompt.text, part, level) for part in parts]
        before = list(accumulate((len(own) + 1 for own in cuts), initial=0))
        found[level] = [
            before[part] + bisect_right(cuts[part], place) if own else None
            for place, part, own in zip(places, at, inside, strict=True)
        ]
    return found


def levels(prompt: Prompt, n_more: int = 0) -> list[list[int]]:
    """How the units belong together, from coarse to fine: by message, paragraph, line, sentence and word.

    On each level the number of every unit's group; `n_more` units behind the prompt are groups of their own together.
    What belongs to nothing goes with what is before it. A level that divides nothing further is left out.
    """
    found: list[list[int]] = []
    for owners in nesting(prompt).values():
        groups: list[int] = []
        for owner in owners:
            before = groups[-1] if groups else 0
            groups.append(before if owner is None else max(before, owner))
        groups += [groups[-1] + 1 if groups else 0] * n_more
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        level = [numbers[group] for group in groups]
        if level[-1] > (found[-1][-1] if found else 0) and level[-1] + 1 < len(level):
            found.append(level)
    return found


def _without_overlap(encoding: Encoding) -> list[Span]:
    """The offsets, each starting no earlier than the one before it ended.

    An empty one behind a gap is that of a token which stands for the gap: white space that the tokenizer left out of
    the token's place.
    """
    spans: list[Span] = []
    reached = 0
    for (start, end), special in zip(encoding.offsets, encoding.special, strict=True):
        if special:
            spans.append((reached, reached))
            continue
        start = reached if start >= end else max(start, reached)
        reached = max(reached, end)
        spans.append((start, max(start, end)))
    return spans


def _places(text: str, encoding: Encoding, spans: list[Span]) -> list[int]:
    """For every token the character that says where it belongs."""
    found: list[int] = []
    before = 0
    for (start, end), special in zip(spans, encoding.special, strict=True):
        if start == end and not special:  # a later piece of a split character, or nothing of the text
            found.append(before)
            continue
        before = max(before, _visible(text, (start, end)))
        found.append(before)
    return found


def _check_owners(source: Source, division: Division, segments: list[Segment], owners: set[int]) -> None:
    """Raises `InputError` where a unit that was asked for by its place has no token, and where no unit has one."""
    asked = [index for index, segment in enumerate(segments) if not segment.special]
    lost = [segments[index] for index in asked if index not in owners]
    if len(lost) == len(asked) and division.name not in ("match", "span"):
        raise InputError(
            "Expected a prompt with something that a person wrote, but every token of it is the template's. Write a "
            "message with content."
        )
    if lost and (division.name == "span" or len(lost) == len(asked)):
        segment = lost[0]
        raise InputError(
            f"Expected units that the tokenizer has tokens for, but every token in "
            f"{source.text[segment.start : segment.end]!r} (characters {segment.start} to {segment.end}) is white "
            "space of what follows, or begins before it. Give whole words."
        )


def _visible(text: str, span: Span) -> int:
    """The first visible character of a stretch; its first where there is none."""
    start, end = span
    own = text[start:end]
    blank = len(own) - len(own.lstrip())
    return start if blank == len(own) else start + blank
