"""Ablated prompts: the scores of a given output when parts of what precedes it are gone.

For now every ablated prompt is computed whole, in batches of equal length, so that no padding and no attention mask is
needed and any architecture gives the same numbers as alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from attribution.errors import NonFiniteError
from attribution.models.local import LocalModel
from attribution.target import Target

BATCH_TOKENS = 2048
"""How many tokens are computed in one batch, unless one prompt alone is longer."""


def ablated_scores(
    model: LocalModel,
    prompt: Sequence[int],
    output: Sequence[int],
    keep: Bool[Tensor, "batch token"],
    target: Target,
    *,
    read_at: Sequence[int] | None = None,
    read_ids: Sequence[int] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[Float[Tensor, "batch item"], int]:
    """The target of every output token, read after the kept tokens before it, and how many tokens that took.

    `keep` covers prompt and output. What is not kept is deleted and later tokens move up. Where nothing at all is kept
    before an output token, the model starts from its BOS (or EOS) token. With `read_at` and `read_ids`, the target is
    read of these ids in the place of these output tokens instead.

    Raises `NonFiniteError` where a target is NaN or infinite.
    """
    items = torch.tensor(list(range(len(output)) if read_at is None else read_at))
    ids = torch.tensor(list(output if read_ids is None else read_ids))
    values = torch.empty(len(keep), len(ids), dtype=torch.float32)
    batches = _batches(keep, len(prompt), batch_tokens)
    tokens = 0
    with (
        torch.no_grad(),
        model.borrowed(),
        tqdm(total=len(keep), desc="ablations", disable=None, delay=1, leave=False) as bar,
    ):
        for batch in batches:
            values[batch], spent = _score_batch(model, prompt, output, keep[batch], target, items, ids)
            tokens += spent
            bar.update(len(batch))
    if not values.isfinite().all():
        raise NonFiniteError(
            "The target of an ablated prompt is NaN or infinite. In float16 load the model with dtype=torch.bfloat16 "
            "or torch.float32; otherwise check that the output is possible at all."
        )
    return values, tokens


def _batches(keep: Bool[Tensor, "batch token"], n_prompt: int, batch_tokens: int) -> list[list[int]]:
    """Indices of masks that are computed together: as many tokens left, and all or none with an empty prompt."""
    # The last output token is never read, only predicted.
    lengths = keep[:, :-1].sum(1).tolist()
    empty = (~keep[:, :n_prompt].any(1)).tolist()
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for index, kind in enumerate(zip(lengths, empty, strict=True)):
        groups[kind].append(index)
    batches: list[list[int]] = []
    for (length, _), group in sorted(groups.items()):
        size = max(1, batch_tokens // max(1, length))
        batches += [group[start : start + size] for start in range(0, len(group), size)]
    return batches


def _score_batch(
    model: LocalModel,
    prompt: Sequence[int],
    output: Sequence[int],
    keep: Bool[Tensor, "batch token"],
    target: Target,
    items: Int[Tensor, " item"],
    read_ids: Int[Tensor, " item"],
) -> tuple[Float[Tensor, "batch item"], int]:
    """Targets of ablated prompts of one length, and how many tokens were computed."""
    full = torch.tensor([*prompt, *output])
    ids = full[:-1].expand(len(keep), -1)[keep[:, :-1]].reshape(len(keep), -1)
    # An output token is predicted at the last kept token before it.
    rows = keep.cumsum(1)[:, len(prompt) - 1 : -1] - 1
    if rows[0, 0] < 0:
        ids = torch.cat([torch.full((len(keep), 1), model.start_id), ids], dim=1)
        rows = rows + 1
    first = int(rows.min())
    logits = model.logits(ids.to(model.device), torch.arange(first, ids.shape[1]))
    logits = logits.gather(1, (rows - first)[:, items].to(logits.device)[..., None].expand(-1, -1, logits.shape[-1]))
    return target.score(logits, read_ids.to(logits.device)).float().cpu(), ids.numel()
