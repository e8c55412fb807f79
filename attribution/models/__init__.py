"""What can be asked. `load` gives a model from whatever names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from attribution.models.local import LocalModel


def load(
    source: str | Path | tuple[Any, Any] | LocalModel,
    *,
    dtype: Any = None,
    device_map: Any = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    use_safetensors: bool = True,
    memory_budget: int | None = None,
) -> LocalModel:
    """A causal language model that can be explained.

    `source` is `"demo"` (the embedded model), a Hugging Face id, a folder, or a pair `(model, tokenizer)` that you
    already hold; a model that this function gave is given back. `dtype`, `device_map`, `revision` and
    `attn_implementation` reach `from_pretrained` as they are. Code from the repository runs only with
    `trust_remote_code=True`, and weights that are not safetensors are read only with `use_safetensors=False`.
    `memory_budget` is how many bytes of its device's memory may be filled at once, by default half of what is free.

    Raises `InputError` for a source of another kind or options that a held model can no longer take, and
    `ModelLoadError` where nothing can be loaded.

    >>> import attribution as at
    >>> at.load("demo").name
    'demo'
    """
    from attribution.models import local

    return local.load(
        source,
        dtype=dtype,
        device_map=device_map,
        revision=revision,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        use_safetensors=use_safetensors,
        memory_budget=memory_budget,
    )
