"""Families of models that take a shortcut, whose truth is lopsided: only the name decides, or only the thing."""

from __future__ import annotations

from random import Random

from attribution.planted.prompt import Planted, Slot, plant
from attribution.planted.sentences import Exchange, Sentence, ask, draw_numbers, idle, joined, state
from attribution.planted.words import draw_words


def shortcut_name(random: Random, held_out: bool) -> Planted:
    """For a model that goes by the name alone: whose number it is decides, whatever thing is asked for."""
    return _shortcut(random, held_out, by="name")


def shortcut_thing(random: Random, held_out: bool) -> Planted:
    """For a model that goes by the thing alone: what there is so many of decides, whoever is asked about."""
    return _shortcut(random, held_out, by="thing")


def _shortcut(random: Random, held_out: bool, by: str) -> Planted:
    """Two people have a thing each; the question names one person and the other's thing."""
    names, things = draw_words(random, 2, 2, held_out=held_out)
    n_first, n_second, fresh = draw_numbers(random, 3)
    answer, other = (n_first, n_second) if by == "name" else (n_second, n_first)
    numbers = {answer: Slot(answer, "cause", "number", {fresh: fresh}), other: idle(other, fresh, answer)}
    owners: list[Slot] = []
    owned: list[Slot] = []
    story: list[Sentence] = []
    for name, thing, number in zip(names, things, (n_first, n_second), strict=True):
        decides = number == answer
        owners.append(Slot(name, "cause" if decides and by == "name" else "irrelevant", "name"))
        owned.append(Slot(thing, "cause" if decides and by == "thing" else "irrelevant", "thing"))
        story.append(state(random, owners[-1], numbers[number], owned[-1], answer))
    random.shuffle(story)
    exchanges: list[Exchange] = []
    for kind, slots in (("name", owners), ("thing", owned)):
        decisive = [slot for slot in slots if slot.kind == "cause"]
        turned = {slots[0]: slots[1].text, slots[1]: slots[0].text}
        exchanges.append((turned, other if kind == by else answer, decisive or slots))
    name_asked = Slot(names[0], "cause" if by == "name" else "irrelevant", "name asked")
    thing_asked = Slot(things[1], "cause" if by == "thing" else "irrelevant", "thing asked")
    for slot, text in ((name_asked, names[1]), (thing_asked, things[0])):
        exchanges.append(({slot: text}, other if slot.kind == "cause" else answer, [slot]))
    return plant(f"shortcut_{by}", joined(story, ask(random, name_asked, thing_asked)), answer, exchanges=exchanges)
