"""Functions by name, in rooms that are imported when one of them is asked for: most recipes call none."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any


class Rooms(Mapping[str, Callable[..., Any]]):
    """Name -> function, or method where the room's METHODS have one of that name. `names`: module -> what it has."""

    def __init__(self, names: Mapping[str, Sequence[str]]):
        self._home = {name: module for module, its in names.items() for name in its}

    def __getitem__(self, name: str) -> Callable[..., Any]:
        module = import_module(self._home[name])
        by_name = {method.name: method for method in getattr(module, "METHODS", ())}
        found: Callable[..., Any] = by_name[name] if name in by_name else getattr(module, name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def __contains__(self, name: object) -> bool:
        return name in self._home
