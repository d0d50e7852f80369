"""What `save` can prove: that its sources hold the bytes that they held when it began, and that an output is whole.

Every source has a stamp, which changes when its content does:

- The stamp of a file is its size, times of change, inode and device (`File` in places/local.py).
- The stamp of arrays in memory is a digest of every byte.
- The stamp of a user's own method is a digest of its code and of what the code reaches (methods/core/proof.py).
- Files beside the weights have stamps too, such as tokenizer and configuration: views may read them, and they are
  copied to the output at the end.

The stamps are part of the key of the journal (staging.py): a run goes on with the blocks of an earlier one only if all
stamps are the same. If a source has no stamp, nothing is resumed.
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
    """The stamps of everything that an output is made from, taken when the work begins.

    sources: files and arrays. terms: what is summed, including calls of methods and views. like: the model whose files
    beside the weights are copied.
    """

    def __init__(self, sources: Sequence[Source], terms: Sequence[Source], like: Source | None):
        """Raises SourceChanged if a source has changed since it was opened."""
        self.sources = tuple(sources)
        calls = [term for term in (*terms, like) if isinstance(term, Derived)]
        self._calls = tuple(dict.fromkeys(inner for call in calls for inner in call.calls()))
        self._require_sources_unchanged()
        self.stamps = [source.stamp() for source in self.sources]
        self.stamps += [proof for call in self._calls for proof in call.own_proof()]
        self._folders = {folder for source in (*calls, like) for folder in _folders(source)}
        self._beside = stamps_of(self._files_beside())

    @property
    def resumable(self) -> bool:
        """Whether everything has a stamp."""
        return None not in self.stamps

    def _files_beside(self) -> Iterator[Path]:
        """The files beside the weights that may be copied, as they are now."""
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
        """Raise SourceChanged for the first source that has changed, or for all files beside the weights that have."""
        self._require_sources_unchanged()
        if differences := changed(self._beside, stamps_of(self._files_beside())):
            raise SourceChanged(
                "files beside the weights changed while these were read; nothing was written, run the same command "
                "again:",
                differences,
            )


def _folders(source: Source | None) -> Iterator[Path]:
    """The folders of a source and, if it is a call, of all models in it: the files beside the weights lie there."""
    for leaf in (source, *(source.leaves if isinstance(source, Derived) else ())):
        if folder := folder_of(leaf):
            yield folder


# ---- an output -----------------------------------------------------------------------------------
def proofs_of_weights(plan: Plan, headers: Mapping[str, str]) -> dict[str, str]:
    """For each file of weights what proves it: the length and the digest of its header, which names every tensor.

    headers: file -> digest of its header. The digests of the tensors themselves are in the record.
    """
    return {shard.filename: f"{shard.header_size} {headers[shard.filename]}" for shard in plan.shards}


def proofs_of_others(folder: Path, known: Container[str]) -> dict[str, str]:
    """For each file of a staged output that is not `known`, the digest of its bytes."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name: digest_of(folder / name) for name in names if name not in known}


def holds(target: Path, proofs: Mapping[str, str], threads: int) -> bool:
    """Whether every file of an output holds what its proof says, and every tensor what the record says. All of it is
    read again."""
    try:
        for name, expected in proofs.items():
            path = target if target.is_file() else target / name
            size, _, digest = expected.rpartition(" ")  # without a size, it is the digest of the whole file
            if (_digest_of_start(path, int(size)) if size else digest_of(path)) != digest:
                return False
        return bool(proofs) and lineage.verify(str(target), threads=threads) is not None
    except (OSError, TaskvecError, ValueError):
        return False


def _digest_of_start(path: Path, size: int) -> str:
    """BLAKE3 of the first bytes of a file."""
    from blake3 import blake3

    with os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        return blake3(file.read(size)).hexdigest()
