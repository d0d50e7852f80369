"""Any program can be an evaluator: a shell command gets a folder with the candidate and prints metrics as JSON."""

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError, TaskvecError
from taskvec.evals.task import LiveOf, Task
from taskvec.saving.save import save

SHOWN = 400  # characters of a command's output that an error shows


@dataclass
class Command(Task):
    """The metrics that a command prints for a model: a number, a list of numbers, or an object of such.

    Gives NAME, or NAME_key for each key of an object. If the command prints more than one such value, each on lines of
    its own, the last one counts. taskvec cannot check which examples the command uses.

    run: a shell command with {model}, the folder of the candidate, and {split}, "validation" or "test". It runs in the
        folder of the suite's file. Every candidate is written to disk for it and then removed, which takes long for
        large models.
    timeout: the number of seconds after which the command is stopped.
    """

    run: str = ""
    timeout: float | None = None
    kind: ClassVar[str] = "command"
    unused: ClassVar[Sequence[str]] = tuple(field.name for field in fields(Task))

    def open(self, name: str, root: Path, live_of: LiveOf) -> None:
        """Check the settings. There is no live module. Raises RecipeError."""
        self.name, self.root = name, root
        if "{model}" not in self.run or "{split}" not in self.run:
            raise RecipeError(f"{name}: run is a command with {{model}} and {{split}}, not {self.run!r}")
        if self.timeout is not None and self.timeout <= 0:
            raise RecipeError(f"{name}: timeout is a number of seconds above 0, not {self.timeout:g}")

    def identities(self, split: str) -> Sequence[str] | None:
        """None: only the command knows its examples."""
        return None

    def labelled(self, split: str) -> Sequence[str]:
        """See `identities`."""
        return ()

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """The metrics that the command prints, always for all examples. Raises TaskvecError if it fails."""
        with tempfile.TemporaryDirectory(prefix="taskvec-") as folder:
            saved = save(weights, Path(folder) / "model", durable=False).path
            command = self.run.replace("{model}", shlex.quote(os.fspath(saved))).replace("{split}", split)
            try:
                done = subprocess.run(
                    command,
                    shell=True,
                    cwd=self.root or None,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=self.timeout,
                )
            except subprocess.TimeoutExpired:
                raise TaskvecError(f"{self.name}: the command took longer than {self.timeout:g} s") from None
        if done.returncode:
            output = (done.stderr.strip() or done.stdout.strip())[-SHOWN:]
            raise TaskvecError(f"{self.name}: the command ended with {done.returncode}: {output}")
        return _metrics(done.stdout, self.name)


def _metrics(printed: str, name: str) -> Mapping[str, Any]:
    """The last number, list or object in JSON that stands on lines of its own, one or several. Raises TaskvecError."""
    decoder, start = json.JSONDecoder(), 0
    value: Any = None
    while start < len(printed):
        stop = printed.find("\n", start) + 1 or len(printed)
        begin = start + len(printed[start:stop]) - len(printed[start:stop].lstrip())
        try:
            decoded, end = decoder.raw_decode(printed, begin)
            rest = printed.find("\n", end) + 1 or len(printed)
            if not printed[end:rest].strip() and isinstance(decoded, int | float | list | dict):
                value, stop = decoded, rest
        except (ValueError, RecursionError):
            pass
        start = stop
    if value is None:
        raise TaskvecError(f"{name}: the command printed no JSON but {printed.strip()[-SHOWN:]!r}")
    return value if isinstance(value, dict) else {"": value}
