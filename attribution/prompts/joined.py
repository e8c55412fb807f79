"""Joined: the texts of a prompt whose template nobody sees, one after the other, cut into characters.

An endpoint that takes messages does not say what its model reads of them. What a person wrote is known all the same,
and that is what units are made of.
"""

from __future__ import annotations

from attribution.prompts.chat import Chat, all_texts
from attribution.prompts.prompt import Encoding
from attribution.prompts.source import Part, Source

BETWEEN = "\n"
"""What stands between one text and the next, for whoever reads them; the model reads what its template writes."""


def join(chat: Chat) -> Source:
    """Every text of a chat in order, as a source whose parts they are; `BETWEEN` stands for the template."""
    parts: list[Part] = []
    reached = 0
    for text in all_texts(chat):
        end = reached + len(text.text)
        blocks = ((reached, 0, len(text.text)),)
        parts.append(Part(reached, end, text.role, text.message, text.place, blocks, text=text.text))
        reached = end + len(BETWEEN)
    whole = BETWEEN.join(text.text for text in all_texts(chat))
    return Source(whole, tuple(parts), tokenizer_adds=False, messages=tuple(chat.messages))


def characters(source: Source) -> Encoding:
    """The characters of a source in the place of tokens, which are not known; their ids are code points."""
    text = source.text
    return Encoding(tuple(map(ord, text)), tuple((i, i + 1) for i in range(len(text))), (False,) * len(text))
