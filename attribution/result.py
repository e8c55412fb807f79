"""Attribution: the result. Plain numbers and texts, frozen; it opens and saves without torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from attribution.errors import InputError, ResultFileError
from attribution.evaluations import Evaluations
from attribution.frames import frame
from attribution.outputs import Outputs, find_outputs

if TYPE_CHECKING:
    from attribution.views.text import TextView

SCHEMA = 2
"""Version of `to_dict` and of saved files. A file with a higher one is refused."""

Array = np.ndarray


@dataclass(frozen=True)
class Unit:
    """A part of the prompt that has a score.

    `start` and `end` are characters of the prompt: the units tile it, with the white space before a word. `text` is
    what stands there, without white space around it unless units are tokens; what the tokenizer added (BOS) has no
    characters, and its name for a text. `first_token` and `last_token` are a half-open range of the prompt's ids.

    `role` says whose text it is: "prompt", or a message's role; "template" for what a chat template wrote, "rest" for
    what lies outside of the spans that were asked about, "special" for what the tokenizer added. These three are marked
    `special`, and stay when other units are absent. `name` is the span's, where it has one.

    `message` is the index of the message it stands in, `place` where in it ("content"), and `own_start` and `own_end`
    are characters of that text, or of the prompt where there are no messages; None where it has none of a person's. Of
    a whole message of several texts they are those of the first.
    `inside` tells which word, sentence, line and paragraph it belongs to, counted through the prompt.
    """

    text: str
    start: int
    end: int
    first_token: int
    last_token: int
    role: str
    special: bool
    name: str = ""
    message: int | None = None
    place: str = ""
    own_start: int | None = None
    own_end: int | None = None
    inside: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Output:
    """An output token: the text it adds, its id, and its log-probability in nats given all that comes before."""

    text: str
    id: int
    logprob: float


@dataclass(frozen=True)
class Interaction:
    """What two units of the prompt, given by their indices, do together beyond what each does alone.

    Positive where they only work together, negative where one replaces the other; `values` has one number for every row
    of scores, in their unit.
    """

    first: int
    second: int
    values: tuple[float, ...]

    @property
    def value(self) -> float:
        """Summed over the output."""
        return sum(self.values)


@dataclass(frozen=True, eq=False)
class Attribution:
    """Which parts of a prompt made a model write each token of its output, and how this was found out.

    `scores` is float32 `[output, unit]`; positive supports the output unless `method["signed"]` is False.
    `output_scores` is float32 `[output, output]`: what each earlier output token did for the later ones, 0 from the
    token itself on; it is None unless the units are tokens. Where not `per_output`, both have a single row, of the
    output as a whole. `errors` are the standard errors of `scores`, where the method estimates them by sampling.
    """

    scores: Float32[Array, "target unit"]
    output_scores: Float32[Array, "target output"] | None
    units: tuple[Unit, ...]
    outputs: tuple[Output, ...]
    prompt: str
    granularity: str
    method: Mapping[str, Any]
    """`name`, `options`, `signed`, and `unit`: what a score is measured in."""
    target: str
    ablation: str | None
    """What an absent unit meant; None for a method that removes nothing."""
    seed: int
    model: Mapping[str, Any]
    """`name`, `architecture`, `dtype`, `revision`."""
    cost: Mapping[str, int]
    """`forwards`, `backwards` and `tokens` that the scores took."""
    versions: Mapping[str, str]
    prompt_ids: tuple[int, ...] = ()
    """The token ids of the prompt, as the model read them."""
    question: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What was asked, as JSON holds it: `target`, `ablation`, `ablate_special`, `over_outputs`; of a chat also
    `messages`, and `tools` and `options` where it had some."""
    per_output: bool = True
    """Whether there is a row of scores for every output token; else there is one for the output as a whole."""
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the method found out about its own scores, its completeness error for instance."""
    errors: Float32[Array, "target unit"] | None = None
    interactions: tuple[Interaction, ...] = ()
    """Pairs of units that stand out, the strongest first; only where the method looks for them."""
    evaluations: Evaluations | None = None
    """The ablated prompts that were asked, from which a run can be continued; kept in files, not in `to_dict`."""

    def __post_init__(self) -> None:
        rows = len(self.outputs) if self.per_output else 1
        units = len(self.units)
        for name, columns in (("scores", units), ("output_scores", len(self.outputs)), ("errors", units)):
            given: Array | None = getattr(self, name)
            if given is not None and given.shape != (rows, columns):
                raise InputError(f"Expected {name} of shape {(rows, columns)}, got {given.shape}.")
        for name in ("scores", "output_scores", "errors"):
            given = getattr(self, name)
            if given is None:
                continue
            if not np.isfinite(given).all():
                raise InputError(f"Expected {name} to be finite, got NaN or infinity.")
            own = given.copy()
            own.setflags(write=False)
            object.__setattr__(self, name, own)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, number for number."""
        return isinstance(other, Attribution) and self.to_dict() == other.to_dict()

    @property
    def output(self) -> str:
        """The whole output as text."""
        return "".join(output.text for output in self.outputs)

    # Reading it

    def output_indices(self, outputs: Outputs = None, units: str = "token") -> list[int]:
        """Indices of output tokens: all of them, or those that are meant by index, text, span or regular expression.

        A text means its first place in the output, `re.compile(...)` all that it matches, a tuple `(start, end)`
        characters of the output, a list several indices; an index below 0 counts from the end. With `units="word"` (or
        "sentence", "line", "paragraph") the whole words that these stand in. Raises `InputError` for what the output
        does not have.
        """
        return find_outputs([output.text for output in self.outputs], outputs, units)

    def total(
        self, outputs: Outputs = None, units: str = "token", *, reduce: str | None = None
    ) -> Float32[Array, " unit"]:
        """Score of every unit over all outputs or the given ones (see `output_indices`); float32 `[unit]`.

        `reduce` is "sum" (the default), "mean" or "min", the smallest of the scores. A result with a single row of
        scores gives that, and takes only what it was computed with. Raises `InputError` for another `reduce`, and where
        some outputs are asked of a result that has scores for all of them together only.
        """
        reductions = {"sum": np.sum, "mean": np.mean, "min": np.min}
        own = None if self.per_output else self.question.get("over_outputs", "sum")
        allowed = tuple(reductions) if own is None else (own,)
        wanted = reduce or (own or "sum")
        if wanted not in allowed:
            raise InputError(f"Expected reduce out of {', '.join(map(repr, allowed))}, got {reduce!r}.")
        indices = self._scored(outputs, units)
        if not self.per_output:
            return self.scores[0].copy()
        return reductions[wanted](self.scores[indices].astype(np.float64), axis=0).astype(np.float32)

    def _scored(self, outputs: Outputs, units: str = "token") -> list[int]:
        """The indices of these outputs; `InputError` where they are but a part of what was scored as a whole."""
        indices = self.output_indices(outputs, units)
        if not self.per_output and sorted(set(indices)) != list(range(len(self.outputs))):
            raise InputError(
                f"Expected all of the output, since its scores were computed together (per_output=False), got "
                f"{outputs!r}. Type explain(..., per_output=True) for scores of its parts."
            )
        return indices

    def to_dict(self) -> dict[str, Any]:
        """Everything in it as plain lists, numbers and texts, ready for JSON; `schema` is the version of its layout."""
        content = self._about()
        content["scores"] = self.scores.tolist()
        content["output_scores"] = None if self.output_scores is None else self.output_scores.tolist()
        content["errors"] = None if self.errors is None else self.errors.tolist()
        return content

    def to_frame(self) -> Any:
        """A table with one row per output token and unit, or per unit where not `per_output`.

        It is of pandas where that is installed, else of polars.

        Raises `MissingExtraError` where neither is.
        """
        columns: dict[str, list[Any]] = {}
        rows = [output.text for output in self.outputs] if self.per_output else [self.output]
        pairs = [(o, u) for o in range(len(rows)) for u in range(len(self.units))]
        columns["output"] = [o for o, _ in pairs]
        columns["output_text"] = [rows[o] for o, _ in pairs]
        columns["unit"] = [u for _, u in pairs]
        columns["unit_text"] = [self.units[u].text for _, u in pairs]
        for name in ("start", "end", "role", "name", "message", "special"):
            columns[name] = [getattr(self.units[u], name) for _, u in pairs]
        columns["score"] = self.scores.ravel().tolist()
        if self.errors is not None:
            columns["error"] = self.errors.ravel().tolist()
        return frame(columns)

    def text_view(self, outputs: Outputs = None, units: str = "token") -> TextView:
        """What a terminal shows; scores are summed over the given outputs (see `output_indices`).

        `rich` prints it, `str` makes plain text of it.
        """
        from attribution.views.text import TextView

        return TextView(self.to_dict(), self._scored(outputs, units))

    def __str__(self) -> str:
        return str(self.text_view())

    def __rich__(self) -> TextView:
        return self.text_view()

    # Keeping it

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the result to a safetensors file; an existing file is replaced once the new one is whole.

        Raises `InputError` where the folder does not exist, `ResultFileError` where the file cannot be written.
        """
        path = check_file(path)
        arrays = {"scores": np.ascontiguousarray(self.scores)}
        for name in ("output_scores", "errors"):
            if getattr(self, name) is not None:
                arrays[name] = np.ascontiguousarray(getattr(self, name))
        if self.evaluations is not None:
            arrays["evaluations_keep"] = self.evaluations.keep.astype(np.uint8)
            arrays["evaluations_values"] = np.ascontiguousarray(self.evaluations.values)
        content = to_safetensors(arrays, metadata={"attribution": json.dumps(self._about())})
        unfinished = path.with_name(f".{path.name}.{uuid4().hex}.part")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(path)
        except OSError as error:
            raise ResultFileError(f"The result cannot be written to {str(path)!r}: {error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attribution:
        """The result that `save` wrote.

        Raises `ResultFileError` for a file that is missing, damaged, no result, or written by a newer version.
        """
        name = str(path)
        try:
            with cast(Any, safe_open)(name, framework="numpy") as file:
                metadata: str | None = (file.metadata() or {}).get("attribution")
                arrays: dict[str, Array] = {key: file.get_tensor(key) for key in list(file.keys())}
        except (OSError, SafetensorError) as error:
            raise ResultFileError(f"No result can be read from {name!r}: {error}") from error
        if metadata is None:
            raise ResultFileError(f"{name!r} is a safetensors file, but no result of this library.")
        try:
            return cls._from_parts(json.loads(metadata), arrays)
        except ResultFileError as error:
            raise ResultFileError(f"{name!r}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ResultFileError(f"The result in {name!r} is damaged: {error!r}") from error

    @classmethod
    def _from_parts(cls, about: dict[str, Any], arrays: dict[str, Array]) -> Attribution:
        schema = about.pop("schema")
        if type(schema) is not int or schema < 1:
            raise ResultFileError(f"its schema is damaged: {schema!r}.")
        if schema > SCHEMA:
            raise ResultFileError(
                f"it was written by a newer version (schema {schema}, this one reads up to {SCHEMA}). "
                "Type: pip install -U llm-attribution"
            )
        keep, values = (arrays.pop(f"evaluations_{name}", None) for name in ("keep", "values"))
        if any(array.dtype != np.float32 for array in arrays.values()):
            raise ResultFileError("its scores are damaged: not float32 numbers.")
        if keep is not None or values is not None:
            if keep is None or values is None or values.dtype != np.float32:
                raise ResultFileError("its evaluations are damaged.")
            about["evaluations"] = Evaluations(keep.astype(bool), values)
        about["interactions"] = tuple(
            Interaction(pair["first"], pair["second"], tuple(pair["values"])) for pair in about.get("interactions", ())
        )
        about["prompt_ids"] = tuple(about.get("prompt_ids", ()))
        about["units"] = tuple(Unit(**unit) for unit in about["units"])
        about["outputs"] = tuple(Output(**output) for output in about["outputs"])
        extra = {name: arrays.get(name) for name in ("output_scores", "errors")}
        result = cls(scores=arrays["scores"], **extra, **about)
        result._check_record()
        return result

    def _check_record(self) -> None:
        """Raises `ResultFileError` where a part of a file is not what it should be, before anything relies on it."""
        size = len(self.prompt)
        whole = {
            "prompt": isinstance(self.prompt, str),
            "prompt_ids": all(type(i) is int for i in self.prompt_ids),
            "question": isinstance(self.question, dict),
            "granularity": isinstance(self.granularity, str),
            "target": isinstance(self.target, str),
            "ablation": self.ablation is None or isinstance(self.ablation, str),
            "per_output": isinstance(self.per_output, bool),
            "notes": isinstance(self.notes, dict) and all(map(self._is_part, self._parts_noted())),
            "evaluations": self.evaluations is None
            or (
                self.evaluations.keep.shape[1] in (len(self.units), len(self.units) + len(self.outputs))
                and self.evaluations.values.shape[1] == len(self.scores)
            ),
            "seed": type(self.seed) is int,
            "units": all(
                isinstance(u.text, str) and isinstance(u.role, str) and 0 <= u.start <= u.end <= size
                for u in self.units
            ),
            "outputs": all(
                isinstance(o.text, str) and type(o.id) is int and math.isfinite(o.logprob) for o in self.outputs
            ),
            "method": all(isinstance(self.method[key], str) for key in ("name", "unit"))
            and isinstance(self.method["signed"], bool),
            "model": isinstance(self.model["name"], str),
            "interactions": all(
                type(pair.first) is type(pair.second) is int
                and 0 <= min(pair.first, pair.second) <= max(pair.first, pair.second) < len(self.units)
                and len(pair.values) == len(self.scores)
                and all(map(math.isfinite, pair.values))
                for pair in self.interactions
            ),
            "cost": all(type(self.cost[key]) is int for key in ("forwards", "backwards", "tokens")),
        }
        damaged = [name for name, fine in whole.items() if not fine]
        if damaged:
            raise ResultFileError(f"it is damaged in {', '.join(damaged)}.")

    def _parts_noted(self) -> list[Any]:
        """What the notes say about parts of the prompt."""
        found = [self.notes.get(name, []) for name in ("joint", "not_looked_into")]
        return [part for parts in found for part in (parts if isinstance(parts, list) else [parts])]

    def _is_part(self, part: Any) -> bool:
        """Whether it names units that there are, and where it has drops as many as there are rows."""
        units = part.get("units") if isinstance(part, dict) else None
        if not isinstance(units, list) or [type(unit) for unit in units] != [int, int]:
            return False
        fits = 0 <= units[0] < units[1] <= len(self.units) + len(self.outputs)
        return fits and len(part.get("drop", self.scores)) == len(self.scores)

    def _about(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON holds it."""
        return {
            "schema": SCHEMA,
            "prompt": self.prompt,
            "prompt_ids": list(self.prompt_ids),
            "question": dict(self.question),
            "granularity": self.granularity,
            "units": [asdict(unit) for unit in self.units],
            "outputs": [asdict(output) for output in self.outputs],
            "method": dict(self.method),
            "target": self.target,
            "per_output": self.per_output,
            "ablation": self.ablation,
            "seed": self.seed,
            "model": dict(self.model),
            "cost": dict(self.cost),
            "notes": dict(self.notes),
            "interactions": [asdict(pair) for pair in self.interactions],
            "versions": dict(self.versions),
        }


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path that a result can be written to; `InputError` for a folder, and where the file's folder is missing."""
    file = Path(path)
    if not str(path) or file.is_dir():
        raise InputError(f"Expected the name of a file, got {str(path)!r}. Add a name such as result.safetensors.")
    if not file.parent.is_dir():
        raise InputError(
            f"Expected a file in a folder that exists, got {str(path)!r}. Create {str(file.parent)!r} first."
        )
    return file
