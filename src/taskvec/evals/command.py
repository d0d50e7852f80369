"""Any program can be an evaluator: a shell command gets a folder with the candidate, and prints metrics as JSON."""

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError, TaskvecError
from taskvec.evals.task import LiveOf, Task
from taskvec.saving.save import save

SHOWN = 400  # characters of what a failed command said


@dataclass
class Command(Task):
    """What `run` prints for a model: a number, a list of numbers, or an object of them; the last line of JSON counts.

    run: a shell command with {model}, the folder of the candidate, and {split}, "validation" or "test". It runs in the
    folder of the suite's file. Every candidate is written to disk for it and removed again: dear for large models.
    Gives NAME, or of an object NAME_key for each key. Which examples it uses, and that they differ, it alone knows.
    """

    run: str = ""
    timeout: float | None = None  # seconds
    kind: ClassVar[str] = "command"

    def open(self, name: str, root: Path, live_of: LiveOf) -> None:
        """It needs no data of its own."""
        self.name, self.root = name, root
        if "{model}" not in self.run or "{split}" not in self.run:
            raise RecipeError(f"{name}: run is a command with {{model}} and {{split}}, not {self.run!r}")
        if self.timeout is not None and self.timeout <= 0:
            raise RecipeError(f"{name}: timeout is a number of seconds above 0, not {self.timeout:g}")

    def identities(self, split: str) -> Sequence[str] | None:
        """Nobody but the command knows."""
        return None

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """What it printed, all of it: a command cannot be asked for a part."""
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
            said = (done.stderr.strip() or done.stdout.strip())[-SHOWN:]
            raise TaskvecError(f"{self.name}: the command ended with {done.returncode}: {said}")
        return _metrics(done.stdout, self.name)


def _metrics(printed: str, name: str) -> Mapping[str, Any]:
    for line in reversed(printed.strip().splitlines()):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else {"": found}
    try:
        found = json.loads(printed)  # over several lines
    except (ValueError, RecursionError):
        raise TaskvecError(f"{name}: the command printed no JSON but {printed.strip()[-SHOWN:]!r}") from None
    return found if isinstance(found, dict) else {"": found}
