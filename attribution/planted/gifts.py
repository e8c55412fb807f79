"""Families of gifts: the answer takes two look-ups, in one go or with the steps between them written down."""

from __future__ import annotations

from collections.abc import Mapping, Set
from random import Random

from attribution.planted.prompt import ANSWER, Planted, Slot, plant
from attribution.planted.sentences import Exchange, Sentence, ask, draw_numbers, idle, joined, state
from attribution.planted.words import draw_words


def two_hops(random: Random, held_out: bool) -> Planted:
    """Who is asked about was given what another one had: the gift leads to the giver, the giver to the number."""
    gifts = _Gifts(random, held_out, {"number", "holder", "giver", "receiver", "name asked"})
    return plant("two_hops", gifts.text, gifts.answer, exchanges=gifts.exchanges)


def written_step(random: Random, held_out: bool) -> Planted:
    """The written steps have found the giver, and now state the number: only the fact about them is still read."""
    gifts = _Gifts(random, held_out, {"number", "holder"})
    first, second = Slot(gifts.giver, "open", "giver written first"), Slot(gifts.giver, "cause", "giver written")
    reply = ["\n\n", first, f" gave {gifts.receiver} all the {gifts.thing}. ", second, " has ", ANSWER]
    reply += [". The answer is ", ANSWER, "."]
    turned: Exchange = ({first: gifts.second_giver, second: gifts.second_giver}, gifts.second_number, [second])
    exchanges = [*gifts.exchanges, turned]
    text = [*gifts.text, STEPS_REQUEST]
    return plant("written_step", text, gifts.answer, reply=reply, exchanges=exchanges, units="token")


def chain_of_thought(random: Random, held_out: bool) -> Planted:
    """The answer reads the written steps, which read the prompt: what they say decides, whatever the prompt says."""
    gifts = _Gifts(random, held_out, set())
    others = {n: n for n in draw_numbers(random, 2, gifts.numbers)}
    step = Slot(gifts.answer, "cause", "number written", others)
    found = f"\n\n{gifts.giver} gave {gifts.receiver} all the {gifts.thing}. {gifts.giver} has "
    reply = [found, step, ". The answer is ", ANSWER, "."]
    text = [*gifts.text, STEPS_REQUEST]
    return plant("chain_of_thought", text, gifts.answer, reply=reply, exchanges=gifts.exchanges, units="token")


STEPS_REQUEST = " Think step by step."


class _Gifts:
    """A story of two who have some of a thing and give all of it away, and a question about one who was given it.

    `causes` are the names of the slots that decide the answer; the rest is changed in the same ways, and it stays.
    """

    def __init__(self, random: Random, held_out: bool, causes: Set[str]) -> None:
        (self.receiver, self.giver, second_receiver, self.second_giver, new), (self.thing,) = draw_words(
            random, 5, 1, held_out=held_out
        )
        self.answer, self.second_number, fresh = draw_numbers(random, 3)
        self.numbers = {self.answer, self.second_number, fresh}

        def slot(text: str, name: str, others: Mapping[str, str] | None = None) -> Slot:
            moved = {other: found if name in causes else self.answer for other, found in (others or {}).items()}
            return Slot(text, "cause" if name in causes else "irrelevant", name, moved)

        def still(text: str, name: str) -> Slot:
            return Slot(text, "irrelevant", name)

        number, second_number = (
            slot(self.answer, "number", {fresh: fresh}),
            idle(self.second_number, fresh, self.answer),
        )
        holder, second_holder = slot(self.giver, "holder"), still(self.second_giver, "second holder")
        giver, second = slot(self.giver, "giver"), still(self.second_giver, "second giver")
        receiver = slot(self.receiver, "receiver")
        second_receiving = Slot(second_receiver, "irrelevant", "second receiver", {new: self.answer})
        name_asked = slot(self.receiver, "name asked", {second_receiver: self.second_number})
        facts: list[Sentence] = [
            state(random, holder, number, self._thing(), self.answer),
            state(random, second_holder, second_number, self._thing(), self.answer),
        ]
        gifts: list[Sentence] = [
            [giver, " gave ", receiver, " all the ", self._thing(), "."],
            [second, " gave ", second_receiving, " all the ", self._thing(), "."],
        ]
        # Who gives has what is given, before it is given.
        first = random.random() < 0.5
        ordered = [(facts[index], gifts[index]) for index in ((0, 1) if first else (1, 0))]
        if random.random() < 0.7:
            story = [*(fact for fact, _ in ordered), *random.sample(gifts, 2)]
        else:
            story = [sentence for pair in ordered for sentence in pair]
        self.text = joined(story, ask(random, name_asked, self._thing()))
        """The pieces of story and question."""
        self.exchanges: list[Exchange] = [
            ({one: two.text, two: one.text}, self.second_number if one.name in causes else self.answer, [one])
            for one, two in ((holder, second_holder), (giver, second), (receiver, second_receiving))
        ]
        self.exchanges.append(({second_holder: new, second: new}, self.answer, [second_holder, second]))

    def _thing(self) -> Slot:
        return Slot(self.thing, "open", "thing")
