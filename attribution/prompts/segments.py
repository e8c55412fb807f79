"""Segments: where a text is cut into words, sentences, lines, paragraphs and other parts.

A text is cut at positions between its characters, so that its segments tile it. White space between two words belongs
to the second, up to and with its last line break to the first. Every other cut is a cut between words: a word lies in
one sentence, a sentence in one line, a line in one paragraph.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any

import regex
from icu4py.breakers import WordBreaker
from sentencex import segment as split_sentences  # pyright: ignore[reportAttributeAccessIssue] - it is compiled

from attribution.errors import InputError

# Addresses end before the marks of a sentence, of Chinese and Japanese anywhere.
_ADDRESS: Any = regex.compile(
    r"""(?:(?:https?|ftp|file)://|\bwww\.)[^\s\x1c-\x1f<>"'`，。、！？；：「」『』（）【】《》]+(?<![.,;:!?)\]}])
    | (?<![a-zA-Z0-9._%+-])[a-zA-Z0-9._%+-]{1,64}+@[\w-]+(?:\.[\w-]+)+""",
    regex.VERBOSE,
)
# Letters with full stops ("e.g."); a word or number with its marks, inner apostrophes, hyphens and decimal points; or
# one other character as it is seen. Invisible characters go with the word that they are in or before.
_WORD: Any = regex.compile(
    r"""(?<![\w.])(?:\p{L}\.){2,}(?!\w)
    | [\p{Cf}--\u200b]*[\w\p{M}][\w\p{M}[\p{Cf}--\u200b]]*
        (?:(?:['’-]|(?<=\d)[.,](?=\d))[\w\p{M}][\w\p{M}[\p{Cf}--\u200b]]*)*
    | [\p{Cf}--\u200b]*(?![\s\x1c-\x1f])\X
    | (?![\s\x1c-\x1f])\X""",
    regex.VERBOSE | regex.VERSION1,
)
# Scripts that write no space between words.
_UNSPACED: Any = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]", flags=regex.VERSION1
)
_LINE_BREAK: Any = regex.compile(r"\r\n|[\n\r\v\f\x85\u2028\u2029]")
_SURROGATE: Any = regex.compile("[\ud800-\udfff]")

_FENCE: Any = regex.compile(r"[ \t]*(`{3,}(?!.*`)|~{3,})(.*)")
_MARKER = r"(?:[-*+•‣◦–]|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)])"
_ITEM: Any = regex.compile(rf"([ \t]*){_MARKER}[ \t]+\S")
_MARKER_ALONE: Any = regex.compile(rf"\s*{_MARKER}\s*")
_LABEL: Any = regex.compile(r"[ \t]*(?:[#>*_]+[ \t]*)?(\p{L}[\p{L}\p{M}' -]{0,30}?)[ \t]*\d{0,4}[ \t]*[*_]*[ \t]*[:：]")

_TRIED = 16  # of the labels that may begin an example
_FEW = 2  # examples, of which the last tells as much as the first


@lru_cache(maxsize=32)
def word_spans(text: str) -> tuple[tuple[int, int], ...]:
    """The words of a text, without the white space between them: words, numbers, addresses, and single marks."""
    found: list[tuple[int, int]] = []
    reached = 0
    for address in _ADDRESS.finditer(text):
        found += _plain_words(text, reached, address.start())
        found.append(address.span())
        reached = address.end()
    found += _plain_words(text, reached, len(text))
    return tuple(found)


def word_cuts(text: str, at_least: int = 0) -> list[int]:
    """Where one word ends and the next begins, with so many line breaks between them at least."""
    cuts: list[int] = []
    for (_, end), (start, _) in pairwise(word_spans(text)):
        breaks = [found.end() for found in _LINE_BREAK.finditer(text, end, start)] if start - end else []
        if len(breaks) >= at_least:
            cuts.append(breaks[-1] if breaks else end)
    return cuts


def line_cuts(text: str) -> list[int]:
    """Where a line with words ends."""
    return word_cuts(text, at_least=1)


def paragraph_cuts(text: str) -> list[int]:
    """Where an empty line follows."""
    return word_cuts(text, at_least=2)


def sentence_cuts(text: str) -> list[int]:
    """Where a sentence ends, or a line.

    Sentences as Wikimedia's sentencex finds them: abbreviations, decimals and addresses do not end one.
    """
    words, lines = word_cuts(text), line_cuts(text)
    found = set(lines)
    for start, end in pairwise((0, *lines, len(text))):
        # Half a character is no text for the library; something of one character stands for it.
        line = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text[start:end])
        reached = start
        for sentence in split_sentences("en", line):
            is_marker = reached == start and _MARKER_ALONE.fullmatch(sentence)
            reached += len(sentence)
            if is_marker:  # "1." of a list ends no sentence
                continue
            place = bisect_left(words, reached - len(sentence) + len(sentence.rstrip()))
            if place < len(words) and words[place] <= reached:  # else it is within what is one word here
                found.add(words[place])
    return sorted(found)


def list_item_cuts(text: str) -> list[int]:
    """Around every item of a list, with the lines that continue it; other text is cut into paragraphs.

    Behind an empty line, an item is continued by what is indented further than its mark. Raises `InputError` where
    there is no list.
    """
    paragraphs = set(paragraph_cuts(text))
    found = set(paragraphs)
    indent: int | None = None
    is_list = False
    for start, line in _lines(text):
        item = _ITEM.match(line)
        if item:
            indent, is_list = len(item.group(1)), True
            found.add(start)
        elif indent is not None and start in paragraphs:
            if line[: indent + 1].isspace():
                found.discard(start)
            else:
                indent = None
    if not is_list:
        raise InputError(
            'Expected a list, lines that begin with "-", "*" or "1.", and found none. Take units="line", or pass spans.'
        )
    return _snapped(text, found)


def code_line_cuts(text: str) -> list[int]:
    """Around every line of code in fenced blocks; other text is cut into paragraphs. Without a fence all is code."""
    if not any(_FENCE.match(line) for _, line in _lines(text)):
        return line_cuts(text)
    found = set(paragraph_cuts(text))
    fence = ""
    for start, line in _lines(text):
        mark = _FENCE.match(line)
        if fence or mark:
            found |= {start, start + len(line)}
        if mark and not fence:
            fence = mark.group(1)
        elif mark and mark.group(1).startswith(fence) and not mark.group(2).strip():
            fence = ""
    return _snapped(text, found)


def example_cuts(text: str) -> list[int]:
    """Where every few-shot example begins; what comes before the first is cut into paragraphs.

    An example begins with a label at the start of a line, such as "Q:", "Input:" or "Example 1:": of those that there
    are more than once, the first behind which the same labels follow every time, else the one that there is most often.
    Raises `InputError` where there is none.
    """
    labels = [(start, match.group(1).casefold()) for start, line in _lines(text) if (match := _LABEL.match(line))]
    count = Counter(label for _, label in labels)
    repeated = [label for _, label in labels if count[label] > 1]
    if not repeated:
        raise InputError(
            'Expected few-shot examples that each begin with the same label, such as "Q:" or "Input:", and found none. '
            "Pass their spans, or a regular expression."
        )
    names = list(dict.fromkeys(repeated))
    regular = (label for label in names[:_TRIED] if _is_regular(label, repeated))
    begins = next(regular, None) or max(names, key=lambda label: count[label])
    starts = [start for start, label in labels if label == begins]
    return _snapped(text, {*starts, *(cut for cut in paragraph_cuts(text) if cut < starts[0])})


CUTS: dict[str, Callable[[str], list[int]]] = {
    "word": word_cuts,
    "sentence": sentence_cuts,
    "line": line_cuts,
    "paragraph": paragraph_cuts,
    "list_item": list_item_cuts,
    "code_line": code_line_cuts,
    "example": example_cuts,
}
"""What a text can be divided into, by name: the positions in it, in order, where it is cut."""


def _is_regular(first: str, labels: Sequence[str]) -> bool:
    """Whether the same labels follow this one every time, however often in a row; the last of many may be cut short."""
    starts = [index for index, label in enumerate(labels) if label == first]
    cycles = [[label for label, _ in groupby(labels[a:b])] for a, b in pairwise((*starts, len(labels)))]
    last = cycles.pop() if len(cycles) > _FEW else cycles[0]
    return all(cycle == cycles[0] for cycle in cycles) and last == cycles[0][: len(last)]


def _plain_words(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The words of a stretch without addresses; where a script writes no space, those of a dictionary."""
    for match in _WORD.finditer(text, start, end):
        if not _UNSPACED.search(match.group()):
            yield match.span()
            continue
        reached = match.start()
        for part in WordBreaker(match.group(), "en"):
            yield reached, reached + len(part)
            reached += len(part)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Where each line starts, and the line with its break."""
    start = 0
    for line_break in _LINE_BREAK.finditer(text):
        yield start, text[start : line_break.end()]
        start = line_break.end()
    if start < len(text):
        yield start, text[start:]


def _snapped(text: str, positions: set[int]) -> list[int]:
    """The cuts between words in whose white space these positions are."""
    found: set[int] = set()
    spans = word_spans(text)
    cuts = word_cuts(text)
    starts = [start for start, _ in spans]
    for position in positions:
        place = bisect_left(starts, position)
        if 0 < place < len(starts) and spans[place - 1][1] <= position:
            found.add(cuts[place - 1])
    return sorted(found)
