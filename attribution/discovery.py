"""Discovery: the classes of a kind that the files of a package define; a new one is found with no other edit."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import TypeVar

Kind = TypeVar("Kind")


def discover(package: str, base: type[Kind]) -> dict[str, Sequence[type[Kind]]]:
    """For every public module of the package, by name, the classes of this kind that it defines."""
    found: dict[str, Sequence[type[Kind]]] = {}
    for module in sorted(iter_modules(import_module(package).__path__), key=lambda module: module.name):
        if not module.name.startswith("_"):
            name = f"{package}.{module.name}"
            contents = vars(import_module(name)).values()
            found[module.name] = [kind for kind in contents if _is_of(kind, base) and kind.__module__ == name]
    return found


def _is_of(kind: object, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base) and not isabstract(kind)
