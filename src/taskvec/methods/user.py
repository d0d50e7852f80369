"""A user's own methods, from a file that the user names: the only code that taskvec ever runs."""

import runpy
from pathlib import Path

from taskvec.errors import RecipeError
from taskvec.methods import FUNCTIONS
from taskvec.methods.lift import Method


def methods_in(path: str) -> dict[str, Method]:
    """Run a Python file and return what it decorated with `@method`, by name. Raises RecipeError."""
    if not Path(path).is_file():
        raise RecipeError(f"{path} does not exist: --methods takes a Python file")
    try:
        names = runpy.run_path(path)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    except SyntaxError as error:
        raise RecipeError(f"{path} cannot be run: {error.msg} (line {error.lineno})") from None
    except Exception as error:
        raise RecipeError(f"{path} cannot be run: {type(error).__name__}: {error}") from None
    found = {value.name: value for value in names.values() if isinstance(value, Method) and value.source}
    if not found:
        raise RecipeError(f"{path} holds no method: decorate a function with @taskvec.method(...)")
    if taken := sorted(found.keys() & FUNCTIONS.keys()):
        raise RecipeError(f"{path}: {taken[0]} is the name of one of taskvec's own methods: take another")
    return found
