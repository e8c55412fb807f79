"""Attribution: the result. Plain numbers and texts, frozen; it opens and saves without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from attribution.errors import InputError, ResultFileError
from attribution.evaluations import Evaluations
from attribution.files import check_file, write_file
from attribution.frames import csv_of, frame
from attribution.outputs import Outputs, find_outputs
from attribution.parts import Interaction, Output, Unit
from attribution.saved import damaged
from attribution.surfaces import Surfaces, encoded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from attribution.views.terminal.result import TextView
    from attribution.views.web.html import HtmlView

SCHEMA = 3
"""Version of `to_dict` and of saved files. A file with a higher one is refused."""

_SHORT = 60
"""Characters of the output that `repr` quotes."""

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Attribution(Surfaces):
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
        return frame(self._columns())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        r"""Writes the rows and columns of `to_frame` as CSV, in UTF-8; it needs no other library.

        Half a character, which UTF-8 does not have, is written as `\ud800`. Raises what `save` raises.
        """
        file = check_file(path)
        write_file(file, encoded(csv_of(self._columns())))

    def _columns(self) -> dict[str, list[Any]]:
        """What a table of it has in each column."""
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
        return columns

    # Seeing it

    def __repr__(self) -> str:
        kinds = ascii(self.granularity)[1:-1] if len(self.granularity) <= _SHORT else "unit"
        output = self.output if len(self.output) <= _SHORT else self.output[: _SHORT - 1] + "…"
        name, size = ascii(self.method["name"])[1:-1], f"{len(self.units)} units ({kinds}) x {len(self.outputs)}"
        return f"<Attribution by {name}: {size} output tokens, {output!a}>"

    def text_view(self, outputs: Outputs = None, units: str = "token", *, full: bool = False) -> TextView:
        """What a terminal shows; scores are summed over the given outputs (see `output_indices`).

        A long prompt is folded around what matters, unless `full`. `rich` prints it, `str` makes plain text of it.
        """
        from attribution.views.terminal.result import TextView

        return TextView(self.to_dict(), self._scored(outputs, units), full=full)

    def html_view(self, outputs: Outputs = None, units: str = "token", others: Sequence[Attribution] = ()) -> HtmlView:
        """What a browser shows: `page()` is a whole page, `notebook()` what fits into a notebook.

        At first it shows the given outputs (see `output_indices`), and this result; `others` are results by other
        methods, to which a person can switch. Raises `InputError` where they are of another prompt, other units or
        another output.
        """
        from attribution.views.web.html import HtmlView
        from attribution.views.web.payload import result_payload

        if not isinstance(others, Sequence) or not all(isinstance(other, Attribution) for other in others):
            raise InputError(f"Expected others as a list of results, got {others!r}. Type others=[...].")
        for other in others:
            if differing := self._differing(other):
                raise InputError(
                    f"Expected results for the same question to switch between, got one by {other.method['name']} with "
                    f"another {', another '.join(differing)}. Type compare(...) to see two questions side by side."
                )
        results = (self, *others)
        chosen = [result._scored(outputs, units) for result in results]
        return HtmlView(result_payload([result.to_dict() for result in results], chosen[0]))

    def to_html(
        self,
        path: str | os.PathLike[str],
        outputs: Outputs = None,
        units: str = "token",
        others: Sequence[Attribution] = (),
    ) -> None:
        """Writes `html_view` as a page that needs nothing else, and opens without a network.

        Raises what `html_view` and `save` raise.
        """
        file = check_file(path)
        write_file(file, encoded(self.html_view(outputs, units, others).page()))

    def plot(
        self,
        outputs: Outputs = None,
        units: str = "token",
        *,
        kind: Literal["matrix", "bars"] = "matrix",
        axes: Axes | None = None,
    ) -> Figure:
        """A matplotlib figure of the given outputs (see `output_indices`); `savefig` writes it as SVG or PNG.

        `kind` is "matrix", every output token beside every unit, or "bars", the strongest units for all of them. With
        `axes` it is drawn there. Raises `InputError` for another kind, `MissingExtraError` without matplotlib.
        """
        from attribution.views.plots.plot import plot_bars, plot_matrix

        kinds = {"matrix": plot_matrix, "bars": plot_bars}
        if kind not in kinds:
            raise InputError(f"Expected kind out of {', '.join(map(repr, kinds))}, got {kind!r}.")
        return kinds[kind](self.to_dict(), self._scored(outputs, units), axes=axes)

    def _differing(self, other: Attribution) -> list[str]:
        """What another result is about that this one is not."""

        def about(result: Attribution) -> dict[str, Any]:
            return {
                "prompt": (result.prompt, result.prompt_ids),
                "units": [(unit.start, unit.end, unit.first_token, unit.last_token) for unit in result.units],
                "output": [output.id for output in result.outputs],
            }

        own, theirs = about(self), about(other)
        # Other units of the same prompt are one difference, and any units of another prompt no second one.
        found = [name for name in own if own[name] != theirs[name]]
        return [name for name in found if name != "units" or "prompt" not in found]

    # Keeping it

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the result to a safetensors file; an existing file is replaced once the new one is whole.

        Raises `InputError` where the folder does not exist, `ResultFileError` where the file cannot be written.
        """
        file = check_file(path)
        about = json.dumps(self._about())
        if json.loads(about)["prompt"] != self.prompt:
            raise ResultFileError(
                "The result cannot be written: its prompt has halves of characters that a file would join into one. "
                "Replace them in the prompt."
            )
        arrays = {"scores": np.ascontiguousarray(self.scores)}
        for name in ("output_scores", "errors"):
            if getattr(self, name) is not None:
                arrays[name] = np.ascontiguousarray(getattr(self, name))
        if self.evaluations is not None:
            arrays["evaluations_keep"] = self.evaluations.keep.astype(np.uint8)
            arrays["evaluations_values"] = np.ascontiguousarray(self.evaluations.values)
        write_file(file, to_safetensors(arrays, metadata={"attribution": about}))

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
        about["outputs"] = tuple(map(Output.read, about["outputs"]))
        extra = {name: arrays.get(name) for name in ("output_scores", "errors")}
        result = cls(scores=arrays["scores"], **extra, **about)
        if damage := damaged(vars(result)):
            raise ResultFileError(f"it is damaged in {', '.join(damage)}.")
        return result

    def _about(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON holds it."""
        return {
            "schema": SCHEMA,
            "prompt": self.prompt,
            "prompt_ids": list(self.prompt_ids),
            "question": dict(self.question),
            "granularity": self.granularity,
            "units": [asdict(unit) for unit in self.units],
            "outputs": [output.to_dict() for output in self.outputs],
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
