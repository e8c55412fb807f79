"""Memory: how much of it an engine may fill, and whether an error says that there was none left."""

from __future__ import annotations

import psutil
import torch

from attribution.models.local import LocalModel

SHARE = 0.5
"""The part of the free memory that is filled where the person set no budget."""

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""How the errors of different devices say it."""


def budget(model: LocalModel) -> int:
    """How many bytes may be filled on the model's device now."""
    if model.memory_budget is not None:
        return model.memory_budget
    return int(SHARE * _free(model.device))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory could not be had, on a GPU or a CPU."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(sign in said for sign in _SIGNS)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)
