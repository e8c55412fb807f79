"""Layouts: a prompt and the texts that are read after it, laid out so that units can be absent from them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribution.absence import Layout, Remainder, Replace
from attribution.errors import ContextWindowError, InputError
from attribution.models.codec import Codec
from attribution.prompts.prompt import Prompt
from attribution.target import Reading


class Layouts:
    """One layout for every text of a reading and every neutral text that absent units are replaced by.

    `owners` is the unit of every token of prompt and output (-1: none), `removable` says of every unit whether it can
    be absent; `window` is how many tokens are read at most, None where nobody knows. Raises `InputError` where texts to
    replace units by do not fit, `ContextWindowError` where they make the prompt too long.
    """

    def __init__(
        self,
        codec: Codec,
        prompt: Prompt,
        reading: Reading,
        owners: Int[Tensor, " token"],
        removable: Bool[Tensor, " unit"],
        ablation: str | Replace,
        window: int | None = None,
    ) -> None:
        self._codec, self._prompt, self._reading = codec, prompt, reading
        self._owners, self._removable = owners.numpy(), removable.numpy()
        n_fillers = len(ablation.fillers) if isinstance(ablation, Replace) else 1
        stand_ins = [
            self._stand_ins(ablation, filler) if isinstance(ablation, Replace) else {} for filler in range(n_fillers)
        ]
        self._n_items = [sum(where == text for where, _ in reading.places) for text in range(len(reading.texts))]
        self._layouts = [
            self._lay_out(text, each, keeps_positions=ablation == "mask")
            for text in range(len(reading.texts))
            for each in stand_ins
        ]
        self._n_fillers = n_fillers
        longest = max(map(_longest, self._layouts))
        if window is not None and isinstance(ablation, Replace) and longest > window:
            raise ContextWindowError(
                f"The model reads at most {window} tokens, and with {ablation} the prompt may come to {longest}. "
                "Replace by a shorter text, or shorten the prompt."
            )

    @property
    def count(self) -> int:
        """How many remainders a mask has."""
        return len(self._layouts)

    @property
    def whole(self) -> Remainder:
        """Prompt and output with nothing absent; every output token is read."""
        output = np.array(self._reading.output)
        ids = np.concatenate([np.array(self._prompt.encoding.ids, dtype=np.int64), output])[:-1]
        rows = np.arange(len(self._prompt.encoding.ids) - 1, len(ids))
        return Remainder(ids, np.arange(len(ids)), rows, output)

    def remainders(self, keep: Bool[np.ndarray, " unit"]) -> list[Remainder]:
        """What is left of each layout; `ModelError` where nothing is, and the tokenizer has no token to start from."""
        return [layout.remainder(keep, lambda: self._codec.start_id) for layout in self._layouts]

    def read(self, scores: Float[Tensor, "remainder item"]) -> Float[Tensor, "mask place"]:
        """What was read of the remainders of some masks, at the places of the reading and in their order."""
        by_layout = scores.unflatten(0, (-1, len(self._n_items), self._n_fillers)).mean(2)
        order = np.argsort([text for text, _ in self._reading.places], kind="stable")
        found = torch.cat([by_layout[:, text, :count] for text, count in enumerate(self._n_items)], dim=1)
        return found[:, torch.from_numpy(np.argsort(order))]

    def _lay_out(self, text: int, stand_ins: dict[int, tuple[int, ...]], *, keeps_positions: bool) -> Layout:
        """The prompt and one of the texts; tokens of the text are units where they are still the output's own."""
        reading, n_prompt = self._reading, len(self._prompt.encoding.ids)
        ids = [*self._prompt.encoding.ids, *reading.texts[text]]
        own = np.full(len(ids), -1)
        shared = n_prompt + reading.shared[text]
        own[:shared] = self._owners[:shared]
        units = [int(unit) if unit >= 0 and self._removable[unit] else -1 for unit in own]
        laid: list[tuple[int, int, bool]] = []
        places: list[int] = []
        for index, (token, unit) in enumerate(zip(ids, units, strict=True)):
            places.append(len(laid))
            if index + 1 == len(ids):  # only predicted, never read
                break
            laid.append((token, unit, False))
            if unit >= 0 and unit != units[index + 1]:
                laid += [(other, unit, True) for other in stand_ins.get(unit, ())]
        items = [item for item, (where, _) in enumerate(reading.places) if where == text]
        # Every remainder has as many items: a text with fewer repeats its last.
        items += items[-1:] * (max(self._n_items) - len(items))
        columns = np.array(laid, dtype=np.int64).reshape(-1, 3).T
        return Layout(
            ids=columns[0].copy(),
            unit=columns[1].copy(),
            stand_in=columns[2].astype(bool),
            reads=np.array([places[n_prompt + reading.places[item][1]] for item in items]),
            items=np.array([reading.ids[item] for item in items]),
            n_prompt=places[n_prompt],
            keeps_positions=keeps_positions,
        )

    def _stand_ins(self, ablation: Replace, filler: int) -> dict[int, tuple[int, ...]]:
        """The ids that stand for each unit when it is absent."""
        n_units = len(self._prompt.units)
        removable = [unit for unit in range(n_units) if self._removable[unit]]
        found: dict[int, tuple[int, ...]] = {}
        known: dict[tuple[str, str], tuple[int, ...]] = {}
        for unit, text in zip(removable, ablation.texts(filler, len(removable)), strict=True):
            first = self._prompt.units[unit].tokens[0]
            # White space before a unit belongs to its token, whether or not the tokenizer says so.
            start = self._prompt.encoding.offsets[first - 1][1] if first else 0
            seen = self._prompt.text[start : self._prompt.encoding.offsets[first][1]]
            written = seen[: len(seen) - len(seen.lstrip())] + text
            place = (self._prompt.text[start - 1 : start], written)
            if place not in known:
                known[place] = self._ids_of(written, first, start)
            found[unit] = known[place]
        if isinstance(ablation.fillers[filler], str):
            outputs = self._codec.output_texts(self._prompt.encoding.ids, self._reading.output)
            for unit in range(n_units, len(self._removable)):
                seen = outputs[unit - n_units]
                written = seen[: len(seen) - len(seen.lstrip())] + str(ablation.fillers[filler])
                found[unit] = self._ids_of(written, len(self._prompt.encoding.ids), len(self._prompt.text))
        return found

    def _ids_of(self, written: str, first: int, start: int) -> tuple[int, ...]:
        """The ids of a text in the place of what begins with this token, at this character."""
        try:
            prompt = self._prompt
            before, ids = prompt.text[:start], prompt.encoding.ids[:first]
            return self._codec.encode_output(before, ids, written, add_special=prompt.tokenizer_adds)
        except InputError:
            return self._codec.ids_of(written)


def _longest(layout: Layout) -> int:
    """How many tokens what is left of a layout, and the last token behind it, can have at most."""
    fixed = int((layout.unit < 0).sum())
    units = layout.unit[layout.unit >= 0]
    own = np.bincount(units, weights=~layout.stand_in[layout.unit >= 0])
    other = np.bincount(units, weights=layout.stand_in[layout.unit >= 0])
    return 1 + fixed + int(np.maximum(own, other).sum())
