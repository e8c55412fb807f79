"""Causal language models of transformers, as the engines see them. The only file that imports transformers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from threading import RLock, get_ident
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import FastGELUActivation, NewGELUActivation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from attribution.checks import check_count
from attribution.errors import (
    ContextWindowError,
    InputError,
    ModelError,
    ModelLoadError,
    NonFiniteError,
)
from attribution.models.codec import Codec
from attribution.models.demo import FOLDER as DEMO_FOLDER

_locks: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()

Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]
"""What surrounds a block's first computation and its repetition in the backward pass."""


@dataclass(frozen=True)
class Memory:
    """What a model keeps of a text that it has read: for every layer its keys and values, `[1, head, token, embed]`."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def bytes_per_token(self) -> int:
        """How many bytes it keeps of each token."""
        return sum(part[:, :, :1].numel() * part.element_size() for pair in self.layers for part in pair)


@dataclass(frozen=True)
class Graph:
    """Logits, and the tensors they can be differentiated by.

    Where the head was cut off, `top` is what the blocks gave and `top_leaf` the copy of it that the head has read.
    """

    logits: Float[Tensor, "batch row vocabulary"]
    leaf: Float[Tensor, "batch token embed"]
    top: Float[Tensor, "batch position embed"] | None
    top_leaf: Float[Tensor, "batch position embed"] | None


class LocalModel:
    """A model and its tokenizer. Nothing here changes either of them: what a call alters, it puts back.

    `model` is any causal language model of transformers and must be in evaluation mode when it is used; `tokenizer`
    is the one it was trained with; `name` says in results which model it was. `memory_budget` is how many bytes of its
    device's memory an engine may fill at once; None for a share of what is free then.

    Raises `InputError` for objects of another kind, and `ModelError` where the two do not belong together.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        memory_budget: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module) or not hasattr(model, "get_input_embeddings"):
            raise InputError(f"Expected a causal language model of transformers, got {type(model).__name__}.")
        config = getattr(model, "config", None)
        if getattr(config, "is_encoder_decoder", False) or not getattr(model, "can_generate", lambda: True)():
            raise InputError(
                f"Expected a causal language model, one that writes on from a text, got {type(model).__name__}. "
                "Load it with AutoModelForCausalLM."
            )
        if not callable(tokenizer):
            raise InputError(f"Expected a tokenizer that can be called on a text, got {type(tokenizer).__name__}.")
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.codec = Codec(tokenizer, lambda: self.vocabulary_size)
        self.name = name or str(getattr(model, "name_or_path", "") or type(model).__name__)
        self.memory_budget = None if memory_budget is None else check_count("memory_budget", memory_budget)
        # An adapter around a model passes on what it does not know itself.
        inner = self.model.get_base_model() if callable(getattr(model, "get_base_model", None)) else self.model
        self._lock = _locks.setdefault(self.model, RLock())
        self._inputs = frozenset(signature(inner.forward).parameters)
        self._takes_rows = "logits_to_keep" in self._inputs

    # What it is

    @property
    def state(self) -> int:
        """Another number once its parameters were exchanged (quantised, say), or its attention."""
        parameters = tuple((type(p), p.dtype, p.device, p.shape) for p in self.model.parameters())
        return hash((getattr(self.model.config, "_attn_implementation", None), parameters))

    @property
    def embedding_layer(self) -> nn.Module:
        """The layer that turns ids into the vectors that the first block reads."""
        return self.model.get_input_embeddings()

    @property
    def vocabulary_size(self) -> int:
        """How many ids the embedding layer knows."""
        return int(cast(Any, self.embedding_layer).weight.shape[0])

    @property
    def width(self) -> int:
        """How many numbers its embedding of a token has."""
        return int(cast(Any, self.embedding_layer).weight.shape[-1])

    @property
    def n_layers(self) -> int:
        """How many blocks it has, as its config says; 1 where it does not."""
        return int(getattr(self.model.config.get_text_config(), "num_hidden_layers", 1))

    @property
    def is_mixture(self) -> bool:
        """Whether a router chooses among experts in it."""
        config = self.model.config.get_text_config()
        names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
        return any((getattr(config, name, 0) or 0) > 1 for name in names)

    @property
    def context_window(self) -> int | None:
        """How many tokens the model can read at once; None where its config does not say."""
        config = self.model.config.get_text_config()
        window = getattr(config, "max_position_embeddings", None)
        return int(window) if window else None

    @property
    def device(self) -> torch.device:
        """Where ids must be for the model to read them."""
        device: torch.device = cast(Any, self.embedding_layer).weight.device
        if device.type == "meta":  # offloaded: accelerate brings the weights there for each pass
            return torch.device(cast(Any, self.embedding_layer)._hf_hook.execution_device)
        return device

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a generation: those of the generation config, else the tokenizer's end-of-sequence token."""
        configured = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        if configured is None:
            configured = getattr(self.tokenizer, "eos_token_id", None)
        if configured is None:
            return frozenset()
        return frozenset([configured] if isinstance(configured, int) else configured)

    def describe(self) -> dict[str, str | None]:
        """Name, architecture, precision and revision, for the record in a result."""
        config = self.model.config
        return {
            "name": self.name,
            "architecture": type(self.model).__name__,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "revision": getattr(config, "_commit_hash", None),
        }

    def check_length(self, prompt: int, output: int) -> None:
        """Raises `ContextWindowError` where prompt and output (counts of tokens) do not fit into the model."""
        window = self.context_window
        if window is not None and prompt + output > window:
            raise ContextWindowError(
                f"The model reads at most {window} tokens and the prompt has {prompt}, the output {output}. "
                "Shorten the prompt or ask for fewer tokens."
            )

    # Computing

    @contextmanager
    def borrowed(self) -> Generator[None]:
        """The model with frozen parameters, for as long as the block runs; afterwards it is as it was.

        Frozen parameters halve the cost of a backward pass and keep every gradient out of `.grad`. A GELU that is
        spelled out is computed by torch's own kernel, which keeps a fifth of the memory for the backward pass. One
        thread borrows a model at a time. Raises `ModelError` for a model in training mode, whose dropout would make
        scores random.
        """
        training = next((name or "model" for name, m in self.model.named_modules() if m.training), None)
        if training is not None:
            raise ModelError(
                f"Expected a model in evaluation mode, but {training!r} is in training mode. Call model.eval()."
            )
        if any(parameter.is_inference() for parameter in self.model.parameters()):
            raise ModelError("Expected a model loaded outside torch.inference_mode(): gradients need ordinary tensors.")
        with self._lock:
            thawed = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            spelled = self._spelled_gelus()
            config = self.model.config
            returns_dict = config.return_dict
            try:
                config.return_dict = True  # answers by name, whatever the user prefers
                for parameter in thawed:
                    parameter.requires_grad_(False)
                for gelu in spelled:
                    gelu.forward = partial(nn.functional.gelu, approximate="tanh")
                yield
            finally:
                config.return_dict = returns_dict
                for parameter in thawed:
                    parameter.requires_grad_(True)
                for gelu in spelled:
                    del gelu.forward

    def _spelled_gelus(self) -> list[nn.Module]:
        """The activations that are torch's tanh GELU in several steps, where both agree up to float32's rounding."""
        if cast(Any, self.embedding_layer).weight.dtype not in (torch.float32, torch.float64):
            return []
        kinds = (NewGELUActivation, FastGELUActivation)
        return [module for module in self.model.modules() if type(module) in kinds and "forward" not in vars(module)]

    def logits(
        self, ids: Int[Tensor, "batch token"], rows: Int[Tensor, " row"] | None = None
    ) -> Float[Tensor, "batch row vocabulary"]:
        """Next-token logits at the given positions (all of them by default), in at least float32.

        Raises `NonFiniteError` where one of them is NaN.
        """
        if rows is None or self._takes_rows:
            rows_asked = {} if rows is None else {"logits_to_keep": rows}
            return _checked(self.model(input_ids=ids, use_cache=False, **rows_asked).logits)
        with self._head_given(lambda states: states[:, rows.to(states.device)]):
            return _checked(self.model(input_ids=ids, use_cache=False).logits)

    def logits_of(
        self, ids: Int[Tensor, "batch token"], reads: Int[Tensor, " row"], **inputs: Any
    ) -> Float[Tensor, "row vocabulary"]:
        """Next-token logits at single places, given as indices into the batch laid end to end, in at least float32.

        `inputs` reach the model as they are. Whether the logits are finite is not looked at.
        """
        return self._answer(ids, reads, {"use_cache": False} | inputs)[0]

    def read_through(
        self, ids: Int[Tensor, "1 token"], reads: Int[Tensor, " row"]
    ) -> tuple[Float[Tensor, "row vocabulary"], Memory | None]:
        """Next-token logits at single places of a text, and the keys and values of all of its tokens.

        The memory is None where the model keeps something else than keys and values of every token.
        """
        logits, answer = self._answer(ids, reads, {"use_cache": True})
        layers = getattr(getattr(answer, "past_key_values", None), "layers", None)
        pairs = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers or ()]
        whole = all(
            isinstance(part, Tensor) and part.ndim == 4 and part.shape[2] == ids.shape[1] for p in pairs for part in p
        )
        return logits, Memory(tuple(cast("list[tuple[Tensor, Tensor]]", pairs))) if pairs and whole else None

    def logits_after(
        self,
        memory: Memory | None,
        length: int,
        ids: Int[Tensor, "batch token"],
        positions: Int[Tensor, "batch token"],
        sees: Bool[Tensor, "batch token seen"],
        reads: Int[Tensor, " row"],
    ) -> Float[Tensor, "row vocabulary"]:
        """Next-token logits as `logits_of` gives them, of texts that look back at the first `length` remembered tokens.

        `sees` says which of these, and after them which of its own batch row's tokens, a token looks at.
        """
        dtype = self.model.dtype
        mask = torch.zeros(sees.shape, dtype=dtype, device=ids.device)
        mask.masked_fill_(~sees.to(ids.device), torch.finfo(dtype).min)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(memory.layers if memory is not None else ()):
            cache.update(
                *(part[:, :, :length].expand(len(ids), -1, -1, -1) for part in (keys, values)), layer_idx=layer
            )
        inputs = {"attention_mask": mask[:, None], "position_ids": positions, "past_key_values": cache}
        return self._answer(ids, reads, {"use_cache": True} | inputs)[0]

    @property
    def takes_masks(self) -> bool:
        """Whether a token's position and what it looks at can be given to it."""
        names = {"attention_mask", "position_ids", "past_key_values"}
        known = {"sdpa", "eager"}
        return names <= self._inputs and getattr(self.model.config, "_attn_implementation", None) in known

    @property
    def attention_window(self) -> int | None:
        """How far back some layer's attention reaches; None where every layer sees all that comes before."""
        config = self.model.config.get_text_config()
        widths = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        return min((int(width) for width in widths if width), default=None)

    def _answer(self, ids: Tensor, reads: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """The logits at single places of the batch, and the model's whole answer."""
        given = {name: value for name, value in inputs.items() if name in self._inputs or name == "use_cache"}
        with self._head_given(lambda states: states.flatten(0, 1)[reads.to(states.device)][None]) as was_given:
            answer = self.model(input_ids=ids, **given)
        logits = answer.logits
        if not was_given:  # its head is no module of its own
            logits = logits.flatten(0, 1)[reads.to(logits.device)][None]
        return _widened(logits)[0], answer

    @contextmanager
    def _head_given(self, select: Callable[[Tensor], Tensor]) -> Generator[list[bool]]:
        """The head is given only what is selected of what the blocks gave, unless another thread asks.

        What it yields has something in it once the head was given anything.
        """
        here = get_ident()
        was_given: list[bool] = []

        def choose(_module: nn.Module, inputs: Any) -> Any:
            if get_ident() != here:
                return inputs
            was_given.append(True)
            return (select(inputs[0]), *inputs[1:])

        head = self.model.get_output_embeddings()
        handle = None if head is None else head.register_forward_pre_hook(choose)
        try:
            yield was_given
        finally:
            if handle is not None:
                handle.remove()

    def logits_at(
        self,
        ids: Int[Tensor, "batch token"],
        rows: Int[Tensor, " row"] | None,
        place: Callable[[Tensor], Tensor],
        *,
        cut: bool,
    ) -> Graph:
        """Logits as `logits` gives them, with the embeddings at another place, and what to differentiate them by.

        `place` makes of the output of the embedding layer, `[batch, token, embed]`, what the first block shall read. It
        is the layer's own output, so that a layer that scales what it looks up, and a model that needs the ids
        elsewhere too, are both differentiated where the first block reads. With `cut` the head reads a leaf of its own.

        Raises `ModelError` where the model does not look its input up exactly once.
        """
        leaves: list[Tensor] = []
        cuts: list[tuple[Tensor, Tensor]] = []
        here = get_ident()  # another thread that uses the model must not notice

        def move(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            if get_ident() != here:
                return output
            leaves.append(place(output.detach()).detach().requires_grad_(torch.is_grad_enabled()))
            return leaves[-1]

        def divide(_module: nn.Module, inputs: Any) -> Any:
            if get_ident() != here:
                return inputs
            cuts.append((inputs[0], inputs[0].detach().requires_grad_(True)))
            return (cuts[-1][1], *inputs[1:])

        handles = [self.embedding_layer.register_forward_hook(move)]
        head = self.model.get_output_embeddings()
        if cut and head is not None:
            handles.append(head.register_forward_pre_hook(divide))
        try:
            logits = self.logits(ids, rows)
        finally:
            for handle in handles:
                handle.remove()
        if len(leaves) != 1:
            raise ModelError(
                f"Expected {self.name} to look its input up once per forward pass, it did so {len(leaves)} times. "
                "Gradient methods do not know this architecture; use leave_one_out."
            )
        return Graph(logits, leaves[0], *(cuts[0] if len(cuts) == 1 else (None, None)))

    @contextmanager
    def checkpointed(self, contexts: Contexts) -> Generator[None]:
        """The model with its blocks computed again in the backward pass instead of kept, while the block runs.

        `contexts` gives what surrounds the first computation of a block and its repetition. A model whose blocks
        transformers does not mark as repeatable stays as it is.
        """
        blocks = [block for block in self.model.modules() if isinstance(block, GradientCheckpointingLayer)]
        own = [vars(block).get("forward") for block in blocks]
        try:
            for block in blocks:
                # To its end each time, so that an offloaded block gives its weights back.
                again = partial(checkpoint, use_reentrant=False, early_stop=False, context_fn=contexts)
                block.forward = partial(again, block.forward)
            yield
        finally:
            for block, forward in zip(blocks, own, strict=True):
                if forward is None:
                    vars(block).pop("forward", None)
                else:  # somebody else's, of an offloaded block for instance
                    block.forward = forward

    @contextmanager
    def counted_norms(self) -> Generator[list[str]]:
        """The names of the norms that run while the block does, each as often as it runs."""
        ran: list[str] = []
        here = get_ident()

        def count(module: nn.Module, _inputs: Any) -> None:
            if get_ident() == here:
                ran.append(type(module).__name__)

        norms = [module for module in self.model.modules() if type(module).__name__.endswith("Norm")]
        handles = [norm.register_forward_pre_hook(count) for norm in norms]
        try:
            yield ran
        finally:
            for handle in handles:
                handle.remove()

    def embed(self, ids: Sequence[int] | Int[Tensor, " token"]) -> Float[Tensor, "token embed"]:
        """What the embedding layer makes of the ids, in at least float32."""
        # Outside inference mode, since what it gives may become part of something that is differentiated.
        with torch.inference_mode(False), torch.no_grad(), self._lock:
            found: Tensor = self.embedding_layer(torch.as_tensor(ids, device=self.device)[None])[0]
            return found.to(torch.promote_types(found.dtype, torch.float32))

    def mean_embedding(self) -> Float[Tensor, "1 embed"]:
        """The mean of what the embedding layer makes of every id it knows."""
        size, part = self.vocabulary_size, 8192
        parts = (range(start, min(start + part, size)) for start in range(0, size, part))
        with torch.inference_mode(False), torch.no_grad():
            total = torch.stack([self.embed(ids).double().sum(0) for ids in parts]).sum(0)
            return (total / size).float()[None]

    @torch.no_grad()
    def runners_up(self, ids: Sequence[int], output: Sequence[int]) -> tuple[int, ...]:
        """In the place of each output token, the likeliest token but that one."""
        whole = torch.tensor([[*ids, *output][:-1]], device=self.device)
        with self.borrowed():
            logits = self.logits(whole, torch.arange(len(ids) - 1, whole.shape[1]))[0]
        logits.scatter_(1, torch.tensor(list(output), device=logits.device)[:, None], -torch.inf)
        return tuple(logits.argmax(1).tolist())

    @property
    def remembers(self) -> bool:
        """Whether what it has read can be given back to it, so that it need not read it again."""
        return "past_key_values" in self._inputs

    def generate(self, ids: Sequence[int], max_new_tokens: int, *, stop: bool = True) -> tuple[int, ...]:
        """The greedy continuation: the likeliest next token, again and again, with the K/V cache.

        Sampling options and penalties of the generation config do not apply. With `stop` it ends after one of
        `stop_ids`, which is part of it; without, it has exactly `max_new_tokens` tokens.
        """
        return self.generate_all(torch.tensor([ids]), max_new_tokens, stop=stop)[0][0]

    @torch.no_grad()
    def generate_all(
        self, ids: Int[Tensor, "batch token"], max_new_tokens: int, *, stop: bool = True
    ) -> tuple[list[tuple[int, ...]], int]:
        """The continuation of every prompt of a batch, as `generate` gives it, and how many tokens that computed.

        Prompts that have ended are computed along, and what they would say is not looked at, until all have.
        """
        stops = self.stop_ids if stop else frozenset()
        whole = step = ids.to(self.device)
        written: list[list[int]] = [[] for _ in ids]
        going, computed = set(range(len(ids))), 0
        last_only = {"logits_to_keep": 1} if self._takes_rows else {}
        cache: Any = None
        with self.borrowed():
            for _ in range(max_new_tokens):
                known = {} if cache is None else {"past_key_values": cache}
                answer = self.model(input_ids=step, use_cache=True, **known, **last_only)
                computed += step.numel()
                chosen = _checked(answer.logits[:, -1]).argmax(-1).to(self.device)
                for row, token in enumerate(chosen.tolist()):
                    if row in going:
                        written[row].append(token)
                going -= {row for row in going if written[row][-1] in stops}
                if not going:
                    break
                cache = getattr(answer, "past_key_values", None)
                whole = torch.cat([whole, chosen[:, None]], dim=1)
                # An architecture that keeps no such cache reads everything again.
                step = whole if cache is None else chosen[:, None]
        return list(map(tuple, written)), computed


def _checked(logits: Tensor) -> Tensor:
    if logits.isnan().any():
        raise NonFiniteError(
            "The model's logits are NaN, so no score can be computed. Check the weights; in float16 load the model "
            "with dtype=torch.bfloat16 or torch.float32."
        )
    return _widened(logits)


def _widened(logits: Tensor) -> Tensor:
    """The logits in at least float32."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


_USUAL: Mapping[str, Any] = {
    "dtype": None,
    "device_map": None,
    "revision": None,
    "attn_implementation": None,
    "trust_remote_code": False,
    "use_safetensors": True,
}
"""How a model is loaded where nothing is said."""


def load(source: object, *, memory_budget: int | None = None, **options: Any) -> LocalModel:
    """See `attribution.load`."""
    options = {**_USUAL, **options}
    if isinstance(source, LocalModel):
        refuse_options(options | {"memory_budget": memory_budget})
        return source
    if isinstance(source, tuple):
        pair = cast("tuple[Any, ...]", source)
        if len(pair) != 2:
            raise InputError(f"Expected a pair (model, tokenizer), got a tuple of {len(pair)}.")
        refuse_options(options)
        return LocalModel(*pair, memory_budget=memory_budget)
    if not isinstance(source, (str, Path)):
        raise InputError(
            'Expected "demo", a Hugging Face id, a folder or a pair (model, tokenizer), got '
            f"{type(source).__name__}. For a model that you hold type at.load((model, tokenizer))."
        )
    if source == "demo":
        options["dtype"] = options["dtype"] or torch.float32
        with _quiet():
            return _from_pretrained(DEMO_FOLDER, "demo", memory_budget, options | {"revision": None})
    return _from_pretrained(source, str(source), memory_budget, options)


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of this name, or in this folder; "demo" is the embedded model's. `ModelLoadError` without one."""
    try:
        return AutoTokenizer.from_pretrained(DEMO_FOLDER if source == "demo" else source)
    except Exception as error:  # a damaged folder fails in whatever way its damage brings about
        raise ModelLoadError(f"No tokenizer could be loaded from {str(source)!r}: {error}") from error


def _from_pretrained(folder: str | Path, name: str, memory_budget: int | None, options: dict[str, Any]) -> LocalModel:
    given = {key: value for key, value in options.items() if value is not None}
    shared = {key: given[key] for key in ("revision", "trust_remote_code") if key in given}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **shared)
        loaded = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **given)
        model, report = cast("tuple[Any, dict[str, Any]]", loaded)
    except Exception as error:  # a damaged folder fails in whatever way its damage brings about
        raise ModelLoadError(f"No model could be loaded from {name!r}: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelLoadError(
            f"The weights in {name!r} are incomplete, and would be random: {', '.join(missing[:3])}"
            f"{' and more' * (len(missing) > 3)}. Check that it is a causal language model and was saved whole."
        )
    return LocalModel(model.eval(), tokenizer, name=name, memory_budget=memory_budget)


def refuse_options(options: dict[str, Any]) -> None:
    """Raises `InputError` for an option that says how to load, with a model that is not to be loaded."""
    changed = [key for key, value in options.items() if value != _USUAL.get(key)]
    if changed:
        raise InputError(
            f"Expected no loading options with a model that is already loaded, got {', '.join(changed)}. "
            "Pass them where it is loaded."
        )


@contextmanager
def _quiet() -> Generator[None]:
    """No progress bar for a model that loads in an instant."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
