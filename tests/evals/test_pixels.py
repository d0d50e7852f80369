"""Pictures as texts: they come back as they were, other programs read them, damaged ones are stated errors."""

import io
from base64 import b64decode, b64encode

import numpy as np
import pytest
from PIL import Image

from taskvec.errors import FormatError
from taskvec.evals.pixels import GREY, decoded, encoded, is_picture

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (28, 28), (4, 6, 3)])
def test_a_picture_comes_back_as_it_was(shape):
    pixels = RNG.integers(0, 256, shape).astype(np.uint8)
    text = encoded(pixels)
    assert is_picture(text) and np.array_equal(decoded(text), pixels)


def test_a_part_of_a_larger_array_is_a_picture_too():
    whole = RNG.integers(0, 256, (9, 9, 3)).astype(np.uint8)
    assert np.array_equal(decoded(encoded(whole[2:5, 1:7])), whole[2:5, 1:7])


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_other_programs_read_the_picture(shape):
    pixels = RNG.integers(0, 256, shape).astype(np.uint8)
    content = b64decode(encoded(pixels).partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


def text_of(content):
    return GREY + b64encode(content).decode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a good film", "'a good film' is no picture: a picture is a text that begins with"),
        (GREY + "!!!!", "a picture cannot be read"),
        (text_of(b"P4\n2 2\n255\n...."), "does not begin like a PGM or PPM file"),
        (text_of(b"P5\n2 2\n65535\n...."), "does not begin like a PGM or PPM file"),
        (text_of(b"P5\n2 2\n255\n..."), "a picture of 2 x 2 cannot be read: it has 3 values"),
        (text_of(b"P5\n0 2\n255\n"), "a picture of 0 x 2 cannot be read"),
        (text_of(b"P6\n2 2\n255\n...."), "it has 4 values"),
        (text_of(b"P5\n99999 99999\n255\n."), "it has 1 values"),
    ],
)
def test_what_is_no_picture_is_said(text, problem):
    with pytest.raises(FormatError, match=problem):
        decoded(text)
