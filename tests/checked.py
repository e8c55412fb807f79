"""Every annotation of the package is checked at run time: types by beartype, shapes by jaxtyping where there are any.

jaxtyping by itself would bind the arguments of every call to names and check them twice, for shapes that most functions
do not have: half of the time of a test that calls many small ones. What is defined inside of a function is made anew
with every call, and its check too, which takes milliseconds: of those of one place the first hundred are checked.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial, wraps
from types import CodeType, FunctionType
from typing import Any

import jaxtyping
from jaxtyping import AbstractArray, config, install_import_hook, jaxtyped

_made: Counter[CodeType] = Counter()
"""How many functions each place has made."""


def check_package(name: str) -> None:
    """Has everything checked that is imported of this package from now on."""
    jaxtyping.jaxtyped = _checked  # what the hook decorates every function and class with
    install_import_hook(name, "beartype.beartype")


def _checked(function: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """As `jaxtyping.jaxtyped`."""
    if function is None:
        return partial(_checked, typechecker=typechecker)
    if isinstance(function, type):
        if is_dataclass(function) and getattr(function.__init__, "__globals__", None) is not globals():
            function.__init__ = _checked(function.__init__, typechecker=typechecker)
        return function
    if not isinstance(function, FunctionType):
        return jaxtyped(function, typechecker=typechecker)
    _made[function.__code__] += 1
    if _made[function.__code__] > 100:
        return function
    chosen: Any = None

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        nonlocal chosen
        if config.jaxtyping_disable:
            return function(*args, **kwargs)
        if chosen is None:  # once all names are known that annotations are made of
            chosen = (
                jaxtyped(function, typechecker=typechecker) if _speaks_of_arrays(function) else typechecker(function)
            )
        return chosen(*args, **kwargs)

    return wrapped


def _speaks_of_arrays(function: FunctionType) -> bool:
    """Whether an annotation has a shape in it, or cannot be read here."""
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # whatever a name stands for that is not there yet: jaxtyping reads it when it is
        return True
    left = list(hints.values())
    while left:
        hint = left.pop()
        if isinstance(hint, type) and issubclass(hint, AbstractArray):
            return True
        left += typing.get_args(hint)
        left += hint if isinstance(hint, list) else []
    return False
