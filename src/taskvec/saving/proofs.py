"""What `save` can prove: that its sources hold the bytes they held when it began, and that an output is whole.

- Of a file the system says its size, its times of change, inode and device (`File` in places/local.py has the rest).
- Of arrays in memory there is a digest of every byte.
- Of a user's own method there is a digest of its code and of what that reaches (methods/core/proof.py).
- Tokenizer and configuration count too: a view may have read them, and they are copied beside the weights at the end.

What one run has proven, the next one compares with: that is the key of the journal (staging.py). A source without a
proof is not resumed.
"""

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from taskvec.algebra.derived import Derived
from taskvec.errors import SourceChanged, TaskvecError
from taskvec.places.local import changed, opened, stamps_of
from taskvec.saving import lineage
from taskvec.saving.outputs import digest_of
from taskvec.saving.plan import Plan
from taskvec.saving.sidecars import COPIED
from taskvec.sources.abilities import folder_of
from taskvec.sources.source import Source


class Proof:
    """The stamps of all that an output is made from, taken when the work begins.

    sources: files and arrays. terms: what is summed, calls included. like: whose side files are copied.
    """

    def __init__(self, sources: Sequence[Source], terms: Sequence[Source], like: Source | None):
        """Raises SourceChanged for what has changed since it was opened."""
        self.sources = tuple(sources)
        calls = [term for term in (*terms, like) if isinstance(term, Derived)]
        self._calls = tuple(dict.fromkeys(inner for call in calls for inner in call.calls()))
        self._require_sources_unchanged()
        self.stamps = [source.stamp() for source in self.sources]
        self.stamps += [proof for call in self._calls for proof in call.own_proof()]
        self._folders = {folder for source in (*calls, like) if source for folder in _folders(source)}
        self._beside = stamps_of(self._found())

    @property
    def resumable(self) -> bool:
        """Whether everything has a proof."""
        return None not in self.stamps

    def _found(self) -> Iterator[Path]:
        """The side files, as they are now."""
        for folder in sorted(self._folders):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if any(fnmatchcase(path.name, pattern) for pattern in COPIED):
                    yield path

    def _require_sources_unchanged(self) -> None:
        for source in self.sources:
            source.require_unchanged()
        for call in self._calls:
            call.require_beside_unchanged()

    def require_unchanged(self) -> None:
        """Raise SourceChanged for the first source, or for all side files, that are not what they were."""
        self._require_sources_unchanged()
        if astray := changed(self._beside, stamps_of(self._found())):
            raise SourceChanged(
                "files beside the weights changed while these were read; nothing was written, run the same command "
                "again:",
                astray,
            )


def _folders(source: Source) -> Iterator[Path]:
    """Where configuration and tokenizer lie of a source, and of the models whose tokenizers are joined in it."""
    for leaf in (source, *(source.leaves if isinstance(source, Derived) else ())):
        if folder := folder_of(leaf):
            yield folder


# ---- an output -----------------------------------------------------------------------------------
def proofs_of_weights(plan: Plan, headers: Mapping[str, str]) -> dict[str, str]:
    """What proves the files of weights: length and digest of their `headers`, which name every tensor. The record has
    the digests of the tensors themselves."""
    return {shard.filename: f"{shard.header_size} {headers[shard.filename]}" for shard in plan.shards}


def proofs_of_others(folder: Path, known: Container[str]) -> dict[str, str]:
    """What proves the files of a staged output beside those that are `known`: the digests of their bytes."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name: digest_of(folder / name) for name in names if name not in known}


def holds(target: Path, proofs: Mapping[str, str], threads: int) -> bool:
    """Whether an output holds what these proofs say of it, and every tensor what its record says: all is read again."""
    try:
        for name, expected in proofs.items():
            path = target if target.is_file() else target / name
            size, _, start = expected.rpartition(" ")
            if (_digest_of_start(path, int(size)) if size else digest_of(path)) != (start or expected):
                return False
        return bool(proofs) and lineage.verify(str(target), threads=threads) is not None
    except (OSError, TaskvecError, ValueError):
        return False


def _digest_of_start(path: Path, size: int) -> str:
    """BLAKE3 of the first bytes of a file."""
    from blake3 import blake3

    with os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        return blake3(file.read(size)).hexdigest()
