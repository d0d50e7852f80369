"""Whether a user's own function is the same as in an earlier run: a digest of all the code that it may run.

An interrupted merge goes on only if what it has computed and what it will compute come from the same function. The text
of the function is not enough to tell, as it may call other functions and read variables of its file. So the digest
covers all that a plain function can reach: functions of the user's, constants, and modules of well-known libraries with
their versions. Anything else (an object, a helper module, an open file) may hold anything. Then there is no digest, and
the merge starts again.
"""

import dis
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

LIBRARIES = ("numpy", "scipy", "torch", "ml_dtypes", "taskvec")  # and the standard library
PLAIN = (int, float, complex, bool, str, bytes, type(None), type(Ellipsis))
# What a function reads or draws through these names and modules may differ from run to run.
OPEN = {"open", "input", "exec", "eval", "globals", "__import__", "load", "loadtxt", "fromfile", "memmap", "random"}
STATEFUL = {"random", "os", "time", "datetime", "sys", "io", "pathlib", "secrets", "uuid", "subprocess", "socket"}


def proof_of(fn: Callable[..., Any]) -> str | None:
    """BLAKE3 of what `fn` may run, or None if it reaches something of which one cannot tell that it is the same."""
    from blake3 import blake3

    seen: dict[int, None] = {}
    parts = list(_parts(fn, seen))
    return None if None in parts else blake3(repr(parts).encode()).hexdigest()


def _parts(value: Any, seen: dict[int, None]) -> Iterator[str | None]:
    """Texts that stand for a value and for all that it reaches, and None for what cannot be followed."""
    if isinstance(value, PLAIN):
        yield repr(value)
    elif isinstance(value, tuple | frozenset):
        for item in value if isinstance(value, tuple) else sorted(value, key=repr):
            yield from _parts(item, seen)
    elif isinstance(value, ModuleType):
        yield _library(value.__name__)
    elif isinstance(value, CodeType):
        yield repr((value.co_code, value.co_names, value.co_varnames, value.co_freevars, value.co_flags))
        for constant in value.co_consts:
            yield from _parts(constant, seen)
    elif isinstance(value, FunctionType) and not _library(value.__module__ or ""):
        if id(value) not in seen:
            seen[id(value)] = None
            yield from _function(value, seen)
    else:
        home, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)  # a function or a class
        library = _library(home) if isinstance(home, str) else None
        yield f"{library}.{name}" if library and name else None


def _function(fn: FunctionType, seen: dict[int, None]) -> Iterator[str | None]:
    yield from _parts(fn.__code__, seen)
    yield from _parts(fn.__defaults__ or (), seen)
    for name, value in (fn.__kwdefaults__ or {}).items():
        yield name
        yield from _parts(value, seen)
    for cell in fn.__closure__ or ():
        try:
            yield from _parts(cell.cell_contents, seen)
        except ValueError:  # nothing is in it yet
            yield None
    for code in _codes(fn.__code__):
        if OPEN & {*code.co_names}:
            yield None
        for name in code.co_names:
            if name in fn.__globals__:
                yield name
                yield from _parts(fn.__globals__[name], seen)
        yield from (_library(i.argval) for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME")


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and that of functions and comprehensions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _library(name: str) -> str | None:
    """A module of a known library with its version; None for any other one."""
    root = name.partition(".")[0]
    if root in sys.stdlib_module_names:
        return None if root in STATEFUL else f"{name} {sys.version}"
    return f"{name} {getattr(sys.modules.get(root), '__version__', '')}" if root in LIBRARIES else None
