"""Units: what a person asks scores for, and where that cuts what the model reads."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, cast

import regex

from attribution.errors import InputError
from attribution.prompts.chat import Chat, all_texts
from attribution.prompts.segments import CUTS
from attribution.prompts.source import Part, Source, Span

NAMES = ("token", "word", "sentence", "line", "paragraph", "message", "list_item", "code_line", "example")
"""What units can be, by name. A message of several texts (thoughts, content, tool calls) is one unit, with what the
template wrote between them."""

Place = Span | tuple[int, int, int] | tuple[int, str, int, int] | tuple[None, str, int, int] | str
"""A stretch of the prompt: its characters `(start, end)`; those of a message's content, `(message, start, end)`, or of
another text in it, `(message, "tool_calls[0].function.arguments.city", start, end)`; or the text itself, where it
stands in the prompt only once."""

Units = str | re.Pattern[str] | Mapping[str, Place] | Sequence[Place]
"""What units can be: a name out of `NAMES`, a regular expression, named places, or places."""


_LISTED = 6  # of the places that an error tells


@dataclass(frozen=True)
class Segment:
    """A stretch of what the model reads that is one unit; `special` where it stays when others are absent."""

    start: int
    end: int
    role: str
    special: bool = False
    name: str = ""
    part: int | None = None


@dataclass(frozen=True)
class Division:
    """How a prompt is divided: `name` out of `NAMES`, "match" of a pattern, or "span" for given places."""

    name: str
    pattern: Any = None
    places: tuple[tuple[str, Place], ...] = ()

    def __str__(self) -> str:
        return self.name

    def segments(self, source: Source) -> list[Segment]:
        """What is read cut into segments that tile it: those of the parts, and what the template wrote between them.

        Raises `InputError` where the division does not fit.
        """
        found: list[Segment] = []
        reached = 0
        for index, (part, segments) in enumerate(zip(source.parts, self._by_part(source), strict=True)):
            before = source.parts[index - 1] if index else None
            if self.name == "message" and before is not None and part.message == before.message is not None:
                found[-1] = replace(found[-1], end=part.end)  # the same message goes on
            else:
                if part.start > reached:
                    found.append(Segment(reached, part.start, "template", special=True))
                found += [replace(segment, part=index) for segment in segments]
            reached = part.end
        if reached < len(source.text) or not found:
            found.append(Segment(reached, len(source.text), "template", special=True))
        return found

    def _by_part(self, source: Source) -> list[list[Segment]]:
        if self.name in ("token", "message"):
            return [[Segment(part.start, part.end, part.role)] for part in source.parts]
        if self.name in CUTS:
            return self._cut(source)
        chosen = self._matches(source) if self.name == "match" else self._placed(source)
        return [_with_rest(part, own) for part, own in zip(source.parts, chosen, strict=True)]

    def _cut(self, source: Source) -> list[list[Segment]]:
        found: list[list[Segment]] = []
        misfits: list[InputError] = []
        for part in source.parts:
            try:
                cuts = cuts_of(source.text, part, self.name)
            except InputError as error:  # there may be some in another part
                misfits.append(error)
                cuts = cuts_of(source.text, part, "paragraph")
            edges = pairwise((part.start, *cuts, part.end))
            found.append([Segment(start, end, part.role) for start, end in edges])
        if misfits and len(misfits) == len(source.parts):
            raise misfits[0]
        return found

    def _matches(self, source: Source) -> list[list[Segment]]:
        found = [
            [Segment(*span, part.role) for span in _matches(source.text, part, self.pattern.finditer)]
            for part in source.parts
        ]
        if not any(found):
            raise InputError(
                f"Expected a regular expression that matches parts of the prompt, {self.pattern.pattern!r} matches "
                f"none. Units with a name are {', '.join(NAMES)}."
            )
        if all(_is_whole(part, own) for part, own in zip(source.parts, found, strict=True)):
            raise InputError(
                f"Expected a regular expression that matches parts of the prompt, {self.pattern.pattern!r} matches all "
                'of it at once. Match less, or take units="message".'
            )
        return found

    def _placed(self, source: Source) -> list[list[Segment]]:
        found = sorted(
            ((*_locate(source, place), name) for name, place in self.places), key=lambda located: located[:2]
        )
        for (start, end, name), (other_start, other_end, other) in pairwise(found):
            if other_start < end:
                raise InputError(
                    f"Expected spans that do not overlap, got {_shown(name, (start, end))} and "
                    f"{_shown(other, (other_start, other_end))}."
                )
        chosen: list[list[Segment]] = [[] for _ in source.parts]
        for start, end, name in found:
            index = next((i for i, p in enumerate(source.parts) if p.start <= start and end <= p.end), None)
            if index is None:
                raise InputError(
                    f"Expected spans within what a person wrote, got {_shown(name, (start, end))}, which takes in what "
                    "the template wrote. Give the characters of one message's content as (message, start, end)."
                )
            chosen[index].append(Segment(start, end, source.parts[index].role, name=name))
        return chosen


def cuts_of(text: str, part: Part, name: str) -> list[int]:
    """Where a part of what is read is cut, by a name out of `CUTS`: where the person's own text is.

    Raises `InputError` where it has nothing of that name.
    """
    if part.reads_alike:
        return [part.start + cut for cut in CUTS[name](text[part.start : part.end])]
    first, (_, own, length) = part.blocks[0][1], part.blocks[-1]
    cuts = {part.read_edge(first + cut) for cut in CUTS[name](part.text[first : own + length])}
    return sorted(cut for cut in cuts if part.start < cut < part.end)


def check_units(units: object) -> Division:
    """The division that a person asked for; `InputError` for anything that says none."""
    if isinstance(units, str):
        if units in NAMES:
            return Division(units)
        if not units or units.replace("_", "").replace(" ", "").isalnum():
            near = get_close_matches(units, NAMES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else " For a regular expression type re.compile(...)."
            raise InputError(f"Expected units out of {', '.join(map(repr, NAMES))}, got {units!r}.{hint}")
        return Division("match", _compile(units))
    if isinstance(units, (re.Pattern, regex.Pattern)):
        if not isinstance(cast(Any, units).pattern, str):
            raise InputError(f"Expected a regular expression for text, got one for bytes: {units!r}.")
        return Division("match", units)
    if isinstance(units, Mapping):
        places = tuple((str(name), _check_place(place)) for name, place in cast("Mapping[Any, Any]", units).items())
    elif isinstance(units, Sequence) and not isinstance(units, bytes):
        places = tuple(("", _check_place(place)) for place in cast("Sequence[Any]", units))
    else:
        raise InputError(
            f"Expected units as a name out of {', '.join(map(repr, NAMES))}, a regular expression or spans such as "
            f'{{"document 2": (310, 842)}}, got {units!r}.'
        )
    if not places:
        raise InputError('Expected at least one span, got none. Type units={"document 2": (310, 842)}.')
    return Division("span", places=places)


def _compile(pattern: str) -> Any:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise InputError(
            f"Expected units out of {', '.join(map(repr, NAMES))}, or a regular expression, got {pattern!r}: {error}."
        ) from error


def _check_place(place: Any) -> Place:
    if isinstance(place, str) and place:
        return place
    given: tuple[Any, ...] = tuple(cast("Iterable[Any]", place)) if isinstance(place, Iterable) else ()
    named = len(given) == 4 and isinstance(given[1], str)
    characters = given
    if named:
        characters = given[2:] if given[0] is None else (given[0], *given[2:])
    try:
        numbers = [operator.index(each) for each in characters]
        numbers = [] if any(isinstance(each, bool) for each in characters) else numbers
    except TypeError:
        numbers = []
    if not numbers or not (named or len(numbers) in (2, 3)):
        raise InputError(
            "Expected a span as (start, end) in characters, as (message, start, end), as (message, place, start, end) "
            f"or as the text itself, got {place!r}."
        )
    if not named:
        return cast(Place, tuple(numbers))
    return cast(Place, (given[0] if given[0] is None else numbers[0], given[1], *numbers[-2:]))


def _locate(source: Source, place: Place) -> Span:
    """The characters of what is read that a place means; `InputError` where there are none, or too many."""
    if isinstance(place, str):
        pattern = regex.compile(regex.escape(place))
        found = [
            span
            for part in source.parts
            for span in _matches(source.text, part, lambda text: pattern.finditer(text, overlapped=True))
        ]
        if len(found) != 1:
            many = f"stands there {len(found)} times" if found else "does not stand there"
            raise InputError(f"Expected a text that stands in the prompt once, {place!r} {many}. Give its characters.")
        return found[0]
    if len(place) == 4:
        return _locate_in_text(source, *place)
    if len(place) == 3:
        message, start, end = place
        return _locate_in_text(source, message, None, start, end)
    start, end = place
    if not 0 <= start < end <= len(source.text):
        raise InputError(
            f"Expected a span within the prompt's {len(source.text)} characters, start before end, got {place}."
        )
    return start, end


def _matches(text: str, part: Part, find: Callable[[str], Iterable[Any]]) -> list[Span]:
    """Where in what is read the matches in a part stand that have any characters, as they are in the person's text."""
    if part.reads_alike:
        spans = (match.span() for match in find(text[part.start : part.end]))
        return [(part.start + start, part.start + end) for start, end in spans if start < end]
    found = (part.read_all(*match.span()) for match in find(part.text))
    return [span for span in found if span is not None]


def _locate_in_text(source: Source, message: int | None, place: str | None, start: int, end: int) -> Span:
    """The characters of what is read for those of a text in a message, or of a tool's; of its content without place."""
    asked = (message, start, end) if place is None else (message, place, start, end)
    if not source.messages:
        raise InputError(f"Expected a span as (start, end), since the prompt is no chat, got {asked}.")
    if message is not None and message not in range(len(source.messages)):
        raise InputError(
            f"Expected a span within the content of a message from 0 to {len(source.messages) - 1}, start before end, "
            f"got message {message}."
        )
    texts = {part.place: part.text for part in source.parts if part.message is None} if message is None else {}
    texts |= {own.place: own.text for own in all_texts(Chat(source.messages)) if own.message == message}
    if place is None:
        contents = [known for known in texts if known.startswith("content")] or list(texts)
        if len(contents) != 1:
            shown = " or ".join(str((message, known, 0, len(texts[known]))) for known in contents[:_LISTED])
            raise InputError(
                f"Expected characters of one text, but message {message} has {len(contents)}, got {asked}. Say which: "
                f"{shown}."
            )
        place = contents[0]
    if place not in texts:
        raise InputError(
            f"Expected the place of a text out of {', '.join(map(repr, list(texts)[:_LISTED]))}, got {place!r}."
        )
    text = texts[place]
    if not 0 <= start < end <= len(text):
        raise InputError(
            f"Expected a span within the {place} of message {message}, start before end, got characters {start} to "
            f"{end} of {len(text)}."
        )
    for part in source.parts:
        if (part.message, part.place) != (message, place):
            continue
        found = replace(part, text=text).read_all(start, end)
        if found is not None:
            return found
    raise InputError(f"The template leaves out some of characters {start} to {end} of message {message}. Give others.")


def _is_whole(part: Part, chosen: list[Segment]) -> bool:
    """Whether a part is one segment, which was chosen."""
    return [(segment.start, segment.end) for segment in chosen] == [(part.start, part.end)]


def _with_rest(part: Part, chosen: list[Segment]) -> list[Segment]:
    """The chosen segments of a part, and what is between them: it stays, since nobody asked about it."""
    found: list[Segment] = []
    reached = part.start
    for segment in chosen:
        if segment.start > reached:
            found.append(Segment(reached, segment.start, "rest", special=True))
        found.append(segment)
        reached = segment.end
    if reached < part.end:
        found.append(Segment(reached, part.end, "rest", special=True))
    return found


def _shown(name: str, span: Span) -> str:
    return f"{name!r} {span}" if name else str(span)
