"""What can be asked. `load` gives a model from whatever names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from pathlib import Path

    from attribution.models.local import LocalModel
    from attribution.models.remote import RemoteModel


@overload
def load(source: RemoteModel) -> RemoteModel: ...


@overload
def load(
    source: Path | tuple[Any, Any] | LocalModel | Literal["demo"],
    *,
    dtype: Any = None,
    device_map: Any = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    use_safetensors: bool = True,
    memory_budget: int | None = None,
) -> LocalModel: ...


@overload
def load(
    source: str | Path | tuple[Any, Any] | LocalModel | RemoteModel,
    *,
    dtype: Any = None,
    device_map: Any = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    use_safetensors: bool = True,
    memory_budget: int | None = None,
) -> LocalModel | RemoteModel: ...


def load(
    source: str | Path | tuple[Any, Any] | LocalModel | RemoteModel,
    *,
    dtype: Any = None,
    device_map: Any = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    use_safetensors: bool = True,
    memory_budget: int | None = None,
) -> LocalModel | RemoteModel:
    """A causal language model that can be explained.

    `source` is `"demo"` (the embedded model), a Hugging Face id, a folder, or a pair `(model, tokenizer)` that you
    already hold; a model that this function gave is given back. A model behind an API is a `RemoteModel`, or a name
    such as `"openai:gpt-4.1-mini"`, whose key is in `OPENAI_API_KEY`.

    All else is of models that run here: `dtype`, `device_map`, `revision` and `attn_implementation` reach
    `from_pretrained` as they are. Code from the repository runs only with `trust_remote_code=True`, and weights that
    are not safetensors are read only with `use_safetensors=False`.
    `memory_budget` is how many bytes of its device's memory may be filled at once, by default half of what is free.

    Raises `InputError` for a source of another kind or options that a held model can no longer take, and
    `ModelLoadError` where nothing can be loaded.

    >>> import attribution as at
    >>> at.load("demo").name
    'demo'
    """
    from attribution.models import local, remote

    options: dict[str, Any] = {
        "dtype": dtype,
        "device_map": device_map,
        "revision": revision,
        "attn_implementation": attn_implementation,
        "trust_remote_code": trust_remote_code,
        "use_safetensors": use_safetensors,
        "memory_budget": memory_budget,
    }
    if remote.is_remote(source):
        local.refuse_options(options)
        return remote.load(source)
    return local.load(source, **options)


def load_local(source: object, what: str) -> LocalModel:
    """The model that `load` gives, where it runs here.

    Raises `CapabilityError` for one behind an API, which is asked by `explain` alone: `what` is what else was to be
    done with it.
    """
    from attribution.errors import CapabilityError
    from attribution.models import local, remote

    if remote.is_remote(source):
        raise CapabilityError(
            f"{what} needs a model that runs here, this one is behind an API. Use explain for it, and compare for its "
            "results."
        )
    return local.load(source)
