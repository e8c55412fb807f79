"""Fingerprint: whether two models have the same weights, without reading all of them."""

from __future__ import annotations

from hashlib import sha256

import torch

from attribution.models.local import LocalModel

_NUMBERS = 16
"""How many of each parameter's numbers are looked at."""


@torch.no_grad()
def fingerprint(model: LocalModel) -> str:
    """The same for models with the same weights, another for one that was trained on: 64 hexadecimal digits.

    It is of the name and shape of every parameter and of a few of its numbers, spread evenly. Numbers of parameters
    that are not in memory, or not plain numbers (quantised ones), are not looked at.
    """
    digest = sha256()
    for name, parameter in model.model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)};".encode())
        if parameter.device.type != "meta" and type(parameter.data) is torch.Tensor:
            numbers = parameter.data.flatten()
            some = numbers[:: max(1, len(numbers) // _NUMBERS)][:_NUMBERS]
            digest.update(some.double().cpu().numpy().tobytes())
    return digest.hexdigest()
