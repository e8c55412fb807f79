"""Backward rules: what a gradient takes for constant, or halves, on its way back through a model.

Relevance propagation (LRP) through a transformer is input x gradient once some derivatives are changed: those of
softmaxes, norms and activations, and of products of two things that both depend on the input. Here stands which rules
there are; `attribution.engine.rules_mode` applies them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from attribution.errors import InputError

Part = Literal["attention", "norm", "activation", "gate", "router"]
"""What rules change. The gate is that of a gated MLP, the router that of a mixture of experts."""


@dataclass(frozen=True)
class Rules:
    """How each part of a model is differentiated; "plain" is the true derivative.

    - `name` says in errors whose rules these are.
    - `attention`: "detach" takes queries and keys for constants; "uniform" keeps a quarter of the gradient of each of
      them and half of that of the values.
    - `temperature`: that of the softmax of attention, in the backward pass only.
    - `norm`: "freeze" takes 1/rms or 1/std for a constant; the mean of a LayerNorm is still differentiated.
    - `activation`: "ratio" takes f(x)/x for a constant, and tanh(x)/x of soft-caps too.
    - `gate`, the product act(gate) * up of a gated MLP: "detach" takes the activated gate for a constant, "half" gives
      half of the gradient to each factor. A sigmoid that gates something of its own size counts as such a gate.
    - `router`, the product of an expert's output and its weight: the same, with the weight for the gate.

    Raises `InputError` for a temperature that is not above 0.
    """

    name: str = "plain"
    attention: Literal["plain", "detach", "uniform"] = "plain"
    temperature: float = 1.0
    norm: Literal["plain", "freeze"] = "plain"
    activation: Literal["plain", "ratio"] = "plain"
    gate: Literal["plain", "detach", "half"] = "plain"
    router: Literal["plain", "detach", "half"] = "plain"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise InputError(f"Expected a temperature above 0, got {self.temperature}.")

    @property
    def needed(self) -> frozenset[Part]:
        """The parts that must be recognised for the rules to hold."""
        parts: dict[Part, bool] = {
            "attention": self.attention != "plain" or self.temperature != 1,
            "norm": self.norm != "plain",
            "activation": self.activation != "plain" or self.gate != "plain",  # a gate is known by its activation
            "gate": self.gate != "plain",
            "router": self.router != "plain",
        }
        return frozenset(part for part, needed in parts.items() if needed)

    @property
    def changes_nothing(self) -> bool:
        """Whether these are the true derivatives, so that none need be applied."""
        return not self.needed


PLAIN = Rules()
"""The true derivatives."""

# Ali et al. 2022, "XAI for Transformers: Better Explanations through Conservative Propagation". A gate is taken for a
# constant as attention is; Arras et al. 2019, "Explaining and Interpreting LSTMs", call this signal-take-all.
CP_LRP = Rules("CP-LRP", attention="detach", norm="freeze", activation="ratio", gate="detach", router="detach")
"""Conservative: input x gradient of a logit, summed over the tokens, is the logit, less what biases contribute."""

# Achtibat et al. 2024, "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers": each product
# splits its relevance evenly, and queries and keys are behind two products, values behind one.
ATTN_LRP = Rules("AttnLRP", attention="uniform", norm="freeze", activation="ratio", gate="half", router="half")
"""Relevance flows through the attention weights too, and evenly into the factors of every product."""


def gim(temperature: float = 2.0) -> Rules:
    """Gradient interaction modifications: attention is differentiated as if it were less sure of itself.

    Raises `InputError` for a temperature that is not above 0.
    """
    # Edin et al. 2025, "GIM: Improved Interpretability for Large Language Models". As in the authors' code, products
    # split their gradient as in AttnLRP; they treat no router, which is one more product.
    return Rules("GIM", attention="uniform", temperature=temperature, norm="freeze", gate="half", router="half")
