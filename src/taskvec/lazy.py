"""Functions that are imported only when somebody asks for their name: most recipes call none, and starting is quick."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any


class Lazy(Mapping[str, Callable[..., Any]]):
    """Name -> function, or the method of that name if the module has METHODS. `names`: module -> the names in it."""

    def __init__(self, names: Mapping[str, Sequence[str]]):
        self._home = {name: module for module, names_there in names.items() for name in names_there}

    def __getitem__(self, name: str) -> Callable[..., Any]:
        module = import_module(self._home[name])
        by_name = {method.name: method for method in getattr(module, "METHODS", ())}
        function: Callable[..., Any] = by_name[name] if name in by_name else getattr(module, name)
        return function

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def __contains__(self, name: object) -> bool:
        return name in self._home
