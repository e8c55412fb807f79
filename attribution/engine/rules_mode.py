"""Backward rules at work: a `RulesMode` changes derivatives while a model computes.

It sees the calls of torch's functions, in its own thread and for as long as it is entered, so that no module is
patched, whatever the architecture, and every value stays the one the model computes.

What cannot be recognised (a fused kernel, an unusual spelling) is counted, and `RulesMode.check` raises rather than let
a rule be left out in silence. The parameters of the model must be frozen: what depends on them alone is no input.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from attribution.engine.rules import Part, Rules
from attribution.errors import CapabilityError


class RulesMode(TorchFunctionMode):
    """Applies rules to what is computed while it is entered. `bound` counts where it recognised each part."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules
        self.bound: Counter[Part] = Counter()
        self.unspent = 0
        """How many attention weights were not yet seen to be multiplied with values."""
        self.unknown = 0
        """How many products of two things that depend on the input are none of the known ones."""
        self.marks: Any = WeakTensorKeyDictionary()
        """What tensors are, while they live: attention "weights", a "softmax" of something else, a "sigmoid", a "norm"
        to multiply with, "activated", or that by "relu"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = _HANDLERS.get(func)
        if handler is None:
            return func(*args, **(kwargs or {}))
        named = dict(kwargs or {})
        by_name = [named.pop(name) for name in ("input", "other") if name in named]
        return handler(self, func, *args, *by_name, **named)

    def marked(self, tensor: Tensor, mark: str | None) -> Tensor:
        """The tensor, remembered under its mark."""
        if mark is not None:
            self.marks[tensor] = mark
        return tensor

    def check(self, *, layers: int, mixture: bool, norms: int = 0) -> None:
        """Raises `CapabilityError` where a part that the rules need was recognised in fewer layers than there are.

        `mixture` says whether the model has experts: then its router must have been recognised too. `norms` is how
        often a module that is called a norm was run: each time one must have been recognised.
        """
        missing = {part: layers - self.bound[part] for part in _REMEDIES}
        missing["norm"] = max(missing["norm"], min(norms - self.bound["norm"], layers))
        missing["attention"] = max(missing["attention"], min(self.unspent, layers))
        missing["router"] = layers if mixture and not self.bound["router"] else 0
        for part, remedy in _REMEDIES.items():
            if part in self.rules.needed and missing[part] > 0:
                raise CapabilityError(
                    f"{self.rules.name} does not recognise how this model computes its {part}, in {missing[part]} of "
                    f"{layers} layers. Load it with {remedy}, or use input_x_gradient or leave_one_out."
                )
        if self.unknown and self.rules.needed & {"gate", "router"}:
            raise CapabilityError(
                f"{self.rules.name} has no rule for {self.unknown} of the products that this model computes, as in a "
                "recurrent layer or an unusual gate or router. Use input_x_gradient or leave_one_out."
            )


_REMEDIES: dict[Part, str] = {
    "attention": "attn_implementation='sdpa' or 'eager'",
    "norm": "use_kernels=False",
    "activation": "use_kernels=False",
    "router": "experts_implementation='eager'",
}
"""By a part that must be in every layer: what to load the model with, so that it is spelled out there."""


# Every rule is an instance of this: the value of one tensor, the gradient of another


class _Graft(torch.autograd.Function):
    """The value of one tensor; the gradient goes to it, and times a constant to another tensor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, path: Tensor, factor: Tensor | float) -> Tensor:
        ctx.number = None if isinstance(factor, Tensor) else factor
        if isinstance(factor, Tensor):
            ctx.save_for_backward(factor)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (grad,) = grad_outputs
        factor = ctx.saved_tensors[0] if ctx.number is None else ctx.number
        return (grad if ctx.needs_input_grad[0] else None), grad * factor, None


def _graft(
    value: Float[Tensor, "*shape"], path: Float[Tensor, "*shape"], factor: Float[Tensor, "*#shape"] | float
) -> Float[Tensor, "*shape"]:
    """`value`, of whose gradient `path` gets as much as `factor` says."""
    grafted: Any = _Graft.apply(value, path, factor)
    return grafted


def _keep(tensor: Float[Tensor, "*shape"], share: float) -> Float[Tensor, "*shape"]:
    """The tensor, which keeps that share of its gradient."""
    if share == 1 or not tensor.requires_grad:
        return tensor
    return _graft(tensor.detach(), tensor, share) if share else tensor.detach()


# Attention, fused or spelled out

_KEPT = {"plain": (1.0, 1.0), "detach": (0.0, 1.0), "uniform": (0.25, 0.5)}
"""How much of their gradient queries and keys keep (which is how much the scores keep), and how much values keep."""


def _fused_attention(
    mode: RulesMode,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    *args: Any,
    **named: Any,
) -> Tensor:
    mode.bound["attention"] += 1
    (share, of_values), heat = _KEPT[mode.rules.attention], mode.rules.temperature
    bias = attn_mask if isinstance(attn_mask, Tensor) and attn_mask.is_floating_point() else None  # of the scores
    value = _keep(value, of_values)
    if heat == 1 or share == 0:
        mask = attn_mask if bias is None else _keep(bias, share)
        return func(_keep(query, share), _keep(key, share), value, mask, *args, **named)
    # Edin et al. 2025 differentiate with the weights p' of a softer softmax, p' * (grad - sum(p' * grad)): heat times
    # the derivative of softmax(scores / heat). The values, which attention is linear in, have a call of their own.
    sharp = func(query.detach(), key.detach(), value, attn_mask if bias is None else bias.detach(), *args, **named)
    scale = named.pop("scale", None)
    scale = (query.shape[-1] ** -0.5 if scale is None else scale) / heat
    mask = attn_mask if bias is None else bias / heat
    return _graft(sharp, func(query, key, value.detach(), mask, *args, scale=scale, **named), share * heat)


def _softmax(mode: RulesMode, func: Any, scores: Tensor, *args: Any, **named: Any) -> Tensor:
    if scores.dim() != 4:  # no heads: perhaps the shares of experts
        return mode.marked(func(scores, *args, **named), "softmax")
    mode.unspent += 1
    (share, _), heat = _KEPT[mode.rules.attention], mode.rules.temperature
    if heat == 1 or share == 0:
        return mode.marked(func(_keep(scores, share), *args, **named), "weights")
    sharp, soft = func(scores.detach(), *args, **named), func(scores / heat, *args, **named)
    return mode.marked(_graft(sharp, soft, share * heat), "weights")


def _matmul(mode: RulesMode, func: Any, left: Tensor, right: Tensor, **named: Any) -> Tensor:
    if mode.marks.get(left) == "weights":
        mode.bound["attention"] += 1
        mode.unspent -= 1
        right = _keep(right, _KEPT[mode.rules.attention][1])
    return func(left, right, **named)


# Norms


def _rsqrt(mode: RulesMode, func: Any, tensor: Tensor, **named: Any) -> Tensor:
    mode.bound["norm"] += 1
    found = func(tensor, **named)
    return mode.marked(found if mode.rules.norm == "plain" else found.detach(), "norm")


def _norm(mode: RulesMode, func: Any, tensor: Tensor, normalized_shape: Any, *args: Any, **named: Any) -> Tensor:
    mode.bound["norm"] += 1
    found = func(tensor, normalized_shape, *args, **named)
    if mode.rules.norm == "plain":
        return found
    names = _NORMS[func]
    given = dict(zip(names, args, strict=False)) | named
    axes = tuple(range(-len(normalized_shape), 0))
    still = _wide(tensor.detach())
    if "bias" in names:  # a LayerNorm
        tensor, still = (each - each.mean(axes, keepdim=True) for each in (tensor, still))
    eps = given.get("eps")
    eps = (1e-5 if "bias" in names else torch.finfo(found.dtype).eps) if eps is None else eps
    factor = (still.square().mean(axes, keepdim=True) + eps).rsqrt()
    weight = given.get("weight")
    return _graft(found.detach(), tensor, (factor if weight is None else factor * weight.detach()).to(found.dtype))


_NORMS = {
    **dict.fromkeys((functional.layer_norm, torch.layer_norm), ("weight", "bias", "eps")),
    **dict.fromkeys((functional.rms_norm, torch.rms_norm), ("weight", "eps")),
}
"""The arguments of norms that come after the shape."""


# Activations


def _wide(tensor: Tensor) -> Tensor:
    """The tensor in at least float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _normal_cdf(tensor: Tensor, approximate: str = "none") -> Tensor:
    wide = _wide(tensor)
    if approximate == "tanh":  # (1 + tanh(z)) / 2 = sigmoid(2 z)
        return torch.sigmoid(math.sqrt(8 / math.pi) * wide * (1 + 0.044715 * wide.square())).to(tensor.dtype)
    return (torch.special.erfc(wide * -math.sqrt(0.5)) / 2).to(tensor.dtype)


_RATIOS: dict[Any, Callable[..., Tensor]] = {
    functional.silu: lambda tensor, **_: torch.sigmoid(tensor),
    functional.gelu: _normal_cdf,
    functional.mish: lambda tensor, **_: torch.tanh(functional.softplus(tensor)),
}
"""f(x) / x of activations, which is safe around 0 and in half precision since nothing is divided."""


def _activation(mode: RulesMode, func: Any, tensor: Tensor, **named: Any) -> Tensor:
    found = func(tensor, **named)
    if named.get("inplace"):  # what it was computed from is gone
        return found
    mode.bound["activation"] += 1
    if mode.rules.activation == "ratio":
        found = _graft(found.detach(), tensor, _RATIOS[func](tensor.detach(), **named))
    return mode.marked(found, "activated")


def _relu(mode: RulesMode, func: Any, tensor: Tensor, *args: Any, **named: Any) -> Tensor:
    mode.bound["activation"] += 1  # its derivative is the ratio
    return mode.marked(func(tensor, *args, **named), "relu")


def _square(mode: RulesMode, func: Any, tensor: Tensor, *args: Any, **named: Any) -> Tensor:
    found = func(tensor, *args, **named)
    if mode.marks.get(tensor) != "relu":
        return found
    # relu(x)^2 / x is relu(x), half of the derivative.
    return mode.marked(_keep(found, 0.5 if mode.rules.activation == "ratio" else 1), "activated")


def _power(mode: RulesMode, func: Any, base: Any, exponent: Any, **named: Any) -> Tensor:
    if not isinstance(exponent, Tensor) and exponent in (2, -0.5):
        handler = _square if exponent == 2 else _rsqrt
        return handler(mode, lambda tensor: func(tensor, exponent, **named), base)
    return func(base, exponent, **named)


def _tanh(mode: RulesMode, func: Any, tensor: Tensor, **named: Any) -> Tensor:
    found = func(tensor, **named)
    if mode.rules.activation == "plain":
        return found
    value, still = found.detach(), tensor.detach()
    return _graft(value, tensor, torch.where(still == 0, 1, value / still))


_ARITHMETIC = frozenset(f"{name}Backward0" for name in ("Add", "Sub", "Mul", "Div", "Neg", "Pow", "Softplus", "ToCopy"))
_SQUASHING = frozenset(f"{name}Backward0" for name in ("Tanh", "Erf", "Sigmoid")) | {"_GraftBackward"}


def _history(tensor: Tensor) -> tuple[set[tuple[Any, int]], bool]:
    """From which results, as autograd knows them, a tensor was computed elementwise, and whether that squashed them."""
    starts: set[tuple[Any, int]] = set()
    squashed = False
    edge: Any = get_gradient_edge(tensor)
    open_ends: list[tuple[Any, int]] = [(edge.node, edge.output_nr)]
    while open_ends and len(starts) < 4:  # an activation has one, a sum over many layers has many
        node, index = open_ends.pop()
        name = node.name()
        if name in _ARITHMETIC or name in _SQUASHING:
            squashed = squashed or name in _SQUASHING
            open_ends += [end for end in node.next_functions if end[0] is not None]
        else:
            starts.add((node, index))
    return starts, squashed


# Products


def _multiply(mode: RulesMode, func: Any, left: Any, right: Any, **named: Any) -> Tensor:
    if left is right:
        return _square(mode, lambda same: func(same, same, **named), left)
    marks = [mode.marks.get(factor) if isinstance(factor, Tensor) else None for factor in (left, right)]
    if "norm" in marks:
        return func(left, right, **named)
    if not (_varies(left) and _varies(right)):  # a constant changes nothing about what the other one is
        return mode.marked(func(left, right, **named), marks[0] or marks[1])
    orders = ((marks[0], left, right), (marks[1], right, left))
    for mark, gate, other in orders:
        if mark in ("sigmoid", "softmax") and gate.numel() < other.numel():
            return _product(mode, "router", func, gate, other, **named)
    for mark, gate, other in orders:
        if mark in ("activated", "relu"):
            return _product(mode, "gate", func, gate, other, **named)
    histories = [_history(factor) for factor in (left, right)]
    if histories[0][0] == histories[1][0]:  # both are functions of one x
        squashed = [of for (_, is_squashed), of in zip(histories, orders, strict=True) if is_squashed]
        if not squashed:  # a polynomial in x
            return func(left, right, **named)
        if len(squashed) == 1:  # an activation spelled out: f(x) / x, such as sigmoid(x), times x
            mode.bound["activation"] += 1
            _, ratio, other = squashed[0]
            ratio = ratio if mode.rules.activation == "plain" else ratio.detach()
            return mode.marked(func(ratio, other, **named), "activated")
    for mark, gate, other in orders:
        if mark == "sigmoid":
            return _product(mode, "gate", func, gate, other, **named)
    mode.unknown += 1
    return func(left, right, **named)


def _multiply_in_place(mode: RulesMode, func: Any, left: Any, right: Any, **named: Any) -> Tensor:
    mode.unknown += _varies(left) and _varies(right)
    return func(left, right, **named)


def _varies(factor: Any) -> bool:
    """Whether it depends on the input."""
    return isinstance(factor, Tensor) and factor.requires_grad and not isinstance(factor, torch.nn.Parameter)


def _product(
    mode: RulesMode, part: Literal["gate", "router"], func: Any, gate: Tensor, other: Tensor, **named: Any
) -> Tensor:
    mode.bound[part] += 1
    rule = mode.rules.gate if part == "gate" else mode.rules.router
    found = func(gate.detach() if rule == "detach" else gate, other, **named)
    return _keep(found, 0.5) if rule == "half" else found


def _divide(mode: RulesMode, func: Any, left: Any, right: Any, **named: Any) -> Tensor:
    if _varies(left) and _varies(right) and mode.marks.get(left) != "softmax":  # shares of experts are shared out anew
        mode.unknown += 1
    return _carry(mode, func, left, right, **named)


def _unknown(mode: RulesMode, func: Any, *args: Any, **named: Any) -> Any:
    """Functions that multiply or normalise in a way for which there is no rule."""
    operands = [each for arg in args for each in (arg if isinstance(arg, (list, tuple)) else (arg,))]
    mode.unknown += any(_varies(operand) for operand in operands)
    return func(*args, **named)


def _sigmoid(mode: RulesMode, func: Any, tensor: Tensor, **named: Any) -> Tensor:
    return mode.marked(func(tensor, **named), "sigmoid")


def _carry(mode: RulesMode, func: Any, *args: Any, **named: Any) -> Any:
    """What leaves a tensor what it was: another shape or precision, some of its elements, a divisor."""
    found = func(*args, **named)
    mark = mode.marks.get(args[0]) if args and isinstance(args[0], Tensor) else None
    mode.marked(found[0] if isinstance(found, tuple) else found, mark)
    return found


def _spelled(handler: Callable[..., Any], names: str) -> dict[Any, Callable[..., Any]]:
    """The handler for every function of these names in torch, in torch.nn.functional and among a tensor's methods."""
    found = [getattr(place, name, None) for place in (torch, functional, Tensor) for name in names.split()]
    return {function: handler for function in found if callable(function)}


_HANDLERS: dict[Any, Callable[..., Any]] = {
    functional.scaled_dot_product_attention: _fused_attention,
    **_spelled(_softmax, "softmax"),
    **_spelled(_matmul, "matmul bmm __matmul__"),
    **_spelled(_rsqrt, "rsqrt"),
    **dict.fromkeys(_NORMS, _norm),
    **dict.fromkeys(_RATIOS, _activation),
    **_spelled(_relu, "relu"),
    **_spelled(_square, "square"),
    **_spelled(_power, "pow __pow__"),
    **_spelled(_tanh, "tanh"),
    **_spelled(_multiply, "mul multiply __mul__ __rmul__"),
    **_spelled(_multiply_in_place, "mul_ multiply_ __imul__"),
    **_spelled(_sigmoid, "sigmoid"),
    **_spelled(_carry, "to type type_as float half bfloat16 double contiguous clone dropout __getitem__ view reshape"),
    **_spelled(_carry, "flatten unsqueeze squeeze transpose permute expand topk gather masked_fill"),
    **_spelled(_divide, "div divide true_divide __truediv__"),
    **_spelled(_unknown, "einsum addcmul addcdiv prod cumprod glu normalize"),
}
"""What happens to a call of one of torch's functions: `handler(mode, function, *args, **kwargs)`."""
