"""Everything that a call must leave as it found it."""

from __future__ import annotations

import copy
import logging
import random
import warnings
from typing import Any

import numpy as np
import torch


def snapshot(model, tokenizer) -> dict[str, Any]:
    """What a user could notice of a model, its tokenizer and the process, as values that can be compared."""
    modules = dict(model.named_modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    loggers = {"": logging.root} | {
        name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    return {
        "parameters": {name: p.detach().clone().numpy().tobytes() for name, p in model.named_parameters()},
        "identities": {name: id(p) for name, p in model.named_parameters()},
        "buffers": {name: b.clone().numpy().tobytes() for name, b in model.named_buffers()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {name: None if p.grad is None else p.grad.tolist() for name, p in model.named_parameters()},
        "mode": {name: module.training for name, module in modules.items()},
        "hooks": {name: [len(getattr(module, kind)) for kind in hooks] for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "config": copy.deepcopy(model.config.to_dict()),
        "generation config": copy.deepcopy(model.generation_config.to_dict()),
        "attention": model.config._attn_implementation,
        "vocabulary": (len(tokenizer), model.get_input_embeddings().weight.shape),
        "padding side": tokenizer.padding_side,
        "torch rng": torch.get_rng_state().tolist(),
        "numpy rng": str(np.random.get_state()),
        "python rng": random.getstate(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warnings": list(warnings.filters),
        "loggers": {
            name: (logger.level, logger.disabled, logger.propagate, list(logger.handlers))
            for name, logger in loggers.items()
            if not name.startswith("attribution")
        },
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what is not as it was; a logger that a library made when it was imported is none of it."""
    known = after | {"loggers": {name: after["loggers"].get(name) for name in before["loggers"]}}
    return [name for name in before if before[name] != known[name]]
