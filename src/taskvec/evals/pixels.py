"""Pictures as texts: a picture stands in a file of examples as a data URI, so that it is read, split and told apart as
texts are.

    {"text": "data:image/x-portable-graymap;base64,UDUKMjggMjgKMjU1Cg...", "label": "7"}

The content is a PGM (grey, magic P5) or a PPM (colour, P6) file with one byte for each value: a header
"P5\n28 28\n255\n" and then the rows. These formats have no compression, so a picture has the same text, and with that
the same digest, on every machine. Most programs open them, and reading one needs no library.
"""

import binascii
import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from taskvec.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREY, COLOUR = "data:image/x-portable-graymap;base64,", "data:image/x-portable-pixmap;base64,"
HEADER = re.compile(rb"(P5|P6)\n(\d{1,5}) (\d{1,5})\n255\n")


def is_picture(text: str) -> bool:
    """Whether a text is a picture in the form above."""
    return text.startswith((GREY, COLOUR))


def encoded(pixels: "NDArray[Any]") -> str:
    """A picture as a text. pixels: uint8, (height, width) in grey or (height, width, 3) in colour."""
    height, width = pixels.shape[:2]
    magic, start = ("P6", COLOUR) if pixels.ndim == 3 else ("P5", GREY)
    return start + b64encode(f"{magic}\n{width} {height}\n255\n".encode() + pixels.tobytes()).decode()


def decoded(text: str) -> "NDArray[Any]":
    """The picture of a text, uint8, (height, width) in grey or (height, width, 3) in colour. Raises FormatError."""
    import numpy as np

    if not is_picture(text):
        raise FormatError(f"{text[:40]!r} is no picture: a picture is a text that begins with {GREY} or {COLOUR}")
    try:
        content = b64decode(text.partition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"a picture cannot be read: {error}") from None
    header = HEADER.match(content)
    if header is None:
        raise FormatError("a picture cannot be read: it does not begin like a PGM or PPM file with 255 levels")
    width, height = int(header[2]), int(header[3])
    shape = (height, width) if header[1] == b"P5" else (height, width, 3)
    pixels = np.frombuffer(content, np.uint8, offset=header.end())
    if pixels.size != np.prod(shape) or not pixels.size:
        raise FormatError(f"a picture of {width} x {height} cannot be read: it has {pixels.size} values")
    return pixels.reshape(shape)
