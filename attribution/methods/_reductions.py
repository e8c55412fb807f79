"""What methods make of the gradient by a token's embedding: a number."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def times_embedding(
    gradient: Float[Tensor, "target token embed"], embeddings: Float[Tensor, "token embed"]
) -> Float[Tensor, "target token"]:
    """Gradient times embedding, summed: signed, in the target's unit."""
    return (gradient * embeddings).sum(-1)
