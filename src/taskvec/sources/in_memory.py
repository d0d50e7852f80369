"""Arrays in memory as a source."""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taskvec.errors import SourceChanged
from taskvec.numbers.dtypes import BITS
from taskvec.sources.abilities import Leaf
from taskvec.sources.source import Spec, fingerprint

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ArraySource(Leaf):
    """Arrays in memory, under a name. arrays: name -> C-contiguous numpy array.

    The memory belongs to the caller, who may write to it at any time without our knowing. So the stamp is a digest of
    every byte, and it is an error if an array changes after it was first stamped.
    """

    def __init__(
        self,
        name: str,
        arrays: "Mapping[str, NDArray[Any]]",
        specs: Mapping[str, Spec],
        mass: int,
        statistic: str = "",
        base: str | None = None,
    ):
        """`base`: the fingerprint of the model that a task vector changes; tensors that it does not name are zero."""
        self.text, self.mass, self.specs, self.base = name, mass, dict(specs), base
        self.statistic, self.partial = statistic, base is not None
        self._stamp: str | None = None  # the first one, which later ones are compared with
        self._bytes = {
            n: memoryview(a.reshape(-1).view("u1").data) if a.size else memoryview(b"") for n, a in arrays.items()
        }

    def addresses(self) -> Iterator[tuple[str, int, int]]:
        """(name, address of the first byte, address behind the last byte) of each tensor."""
        import numpy as np

        for name, data in self._bytes.items():
            if data:
                first = np.frombuffer(data, np.uint8).ctypes.data
                yield name, first, first + len(data)

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Copy the elements."""
        first = start * BITS[self.specs[name].dtype] // 8
        out[:] = self._bytes[name][first : first + len(out)]

    def stamp(self) -> str:
        """BLAKE3 of name, dtype, shape and all bytes of every tensor, as they are now. On all cores: several GB/s."""
        from blake3 import blake3

        state = blake3(max_threads=blake3.AUTO)
        for name, data in self._bytes.items():
            spec = self.specs[name]
            state.update(json.dumps([name, spec.dtype, spec.shape]).encode())
            state.update(data)
        stamp = state.hexdigest()
        self._stamp = self._stamp or stamp
        return stamp

    def require_unchanged(self) -> None:
        """Raise SourceChanged if an array holds other bytes than when it was first stamped or fingerprinted: what
        methods have measured since then is remembered, and would not be true of the new bytes."""
        known = self.__dict__.get("fingerprint")
        changed = known is not None and known != fingerprint(self.specs, self.readinto)
        if changed or (self._stamp is not None and self._stamp != self.stamp()):
            raise SourceChanged(
                f"{self.text}: an array in memory changed after it was read; nothing was written. Leave it as it is "
                "while it is used, or call from_arrays again to use the new numbers"
            )

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self.text}: arrays in memory cannot be pickled, nor weights that are made of them: send their text, "
            "str(weights), and parse it where it is needed, or save them and load the file"
        )

    @cached_property
    def fingerprint(self) -> str:
        """The function `fingerprint` of sources/source.py, of these arrays."""
        return fingerprint(self.specs, self.readinto)
