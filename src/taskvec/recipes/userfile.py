"""Runs a Python file that the user names, for methods, data and evaluators.

Apart from it and the shell commands in a file of tasks, taskvec runs no code that it does not bring.
"""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskvec.errors import RecipeError
from taskvec.methods import FUNCTIONS
from taskvec.methods.core.lift import Lifted


def methods_in(path: str) -> dict[str, Lifted]:
    """Run a Python file and return what it decorated with `@method`, by name. Raises RecipeError."""
    names = _run(path, "--methods takes a Python file")
    methods = {value.name: value for value in names.values() if isinstance(value, Lifted) and value.source}
    if not methods:
        raise RecipeError(f"{path} holds no method: decorate a function with @taskvec.method")
    if taken := sorted(methods.keys() & FUNCTIONS.keys()):
        raise RecipeError(f"{path}: {taken[0]} is the name of one of taskvec's own methods: take another")
    return methods


def function_in(text: str, wanted: str = "--data takes FILE.py:function") -> tuple[Callable[..., Any], str]:
    """Run a file, and return the function that "FILE.py:function" names and the BLAKE3 digest of the file.

    Raises RecipeError.
    """
    from blake3 import blake3

    path, colon, name = text.rpartition(":")
    if not (colon and path and name.isidentifier()):
        raise RecipeError(f"{text!r} is not FILE.py:function: say which function in the file to call")
    names = _run(path, wanted)
    if not callable(names.get(name)):
        known = sorted(k for k, v in names.items() if getattr(v, "__module__", "") == "<run_path>" and callable(v))
        raise RecipeError(f"{path} has no function {name}; it has {', '.join(known) or 'none'}")
    return names[name], blake3(Path(path).read_bytes()).hexdigest()


def _run(path: str, wanted: str) -> dict[str, Any]:
    """The names that a Python file defines. Raises RecipeError."""
    if not Path(path).is_file():
        raise RecipeError(f"{path} does not exist: {wanted}")
    try:
        return runpy.run_path(path)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    except SyntaxError as error:
        raise RecipeError(f"{path} cannot be run: {error.msg} (line {error.lineno})") from None
    except Exception as error:
        raise RecipeError(f"{path} cannot be run: {type(error).__name__}: {error}") from None
