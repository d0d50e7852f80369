"""A format in one file: numpy's .npz, a zip of .npy files, read in place and never as a whole.

`numpy.savez` stores each array without compression. So its elements lie in one piece of the archive, behind a header
that says their dtype and shape, and any range of them is one read of the file. What lies otherwise (compressed, in
Fortran's order, in big-endian numbers, as objects) is an error that names the array.
"""

import struct
import zipfile
from functools import cached_property
from pathlib import Path

import numpy as np

from taskvec.errors import FormatError
from taskvec.numbers.dtypes import BITS
from taskvec.places.local import File
from taskvec.sources.source import Spec, fingerprint
from taskvec.sources.text import quoted

DTYPES = {
    np.dtype(d).str: name for d, name in (("f2", "F16"), ("f4", "F32"), ("f8", "F64"), ("i8", "I64"), ("?", "BOOL"))
}
LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of a zip: the lengths of the name and of what follows the name


def sniff(path: Path) -> bool:
    """A file that ends in .npz."""
    return path.name.endswith(".npz")


def open_source(path: Path, uri: str) -> "Arrays":
    """Read and check the headers. Raises FormatError."""
    return Arrays(path, uri)


class Arrays:
    """The arrays of one archive."""

    mass, partial, base = 1, False, None

    def __init__(self, path: Path, uri: str):
        self.uri, self.file = uri, File(path)
        self.specs: dict[str, Spec] = {}
        self._at: dict[str, int] = {}  # array -> where its elements begin
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    name = member.filename.removesuffix(".npy")
                    self.specs[name], self._at[name] = self._array(archive, member)
        except (zipfile.BadZipFile, ValueError, struct.error) as error:
            raise FormatError(f"{uri} is not an archive of arrays: {error}") from None

    def _array(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[Spec, int]:
        """The header of an array, and where its elements begin. Raises FormatError."""
        with archive.open(member) as file:
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, in_columns, dtype = read[np.lib.format.read_magic(file)[0]](file)
            header = file.tell()
        spec = Spec(shape, DTYPES.get(dtype.str, ""))
        if member.compress_type != zipfile.ZIP_STORED or (in_columns and len(shape) > 1) or not spec.dtype:
            raise FormatError(f"{self.uri}: {member.filename} cannot be read in place: save it with numpy.savez")
        name, extra = LOCAL_HEADER.unpack(self.file.read(member.header_offset, LOCAL_HEADER.size))
        start = member.header_offset + LOCAL_HEADER.size + name + extra + header
        if member.file_size != header + spec.nbytes or start + spec.nbytes > self.file.size:
            raise FormatError(f"{self.uri}: {member.filename} has another size than its header says")
        return spec, start

    @property
    def text(self) -> str:
        """As a recipe writes it."""
        return f"load({quoted(self.uri)})"

    @cached_property
    def fingerprint(self) -> str:
        """See `source.fingerprint`."""
        return fingerprint(self.specs, self.readinto)

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with elements of `name` from flat index `start` on."""
        self.file.readinto(self.segment(name, start)[1], out)

    def segment(self, name: str, start: int) -> tuple[int, int]:
        """(file descriptor, offset) of these elements, for a kernel that reads them itself."""
        return self.file.fd(), self._at[name] + start * BITS[self.specs[name].dtype] // 8

    def stamp(self) -> str:
        """What the system said of the file when it was opened."""
        return repr((str(self.file.path.resolve()), self.file.stamp))

    def require_unchanged(self) -> None:
        """Raise SourceChanged if the file is no longer the one that was opened."""
        self.file.require_unchanged()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arrays) and self.stamp() == other.stamp()

    def __hash__(self) -> int:
        return hash(self.stamp())
