"""The compiled kernels agree with the package and refuse what cannot be; what they compute is in test_contract.py."""

from types import SimpleNamespace

import numpy as np
import pytest

from taskvec.numbers import compiled
from taskvec.numbers.operations import AROUND, COUNT, EQUAL, KEEP, MASK, NONZERO, SUM, Op

needs_compiled = pytest.mark.skipif(not compiled.AVAILABLE, reason="there are no compiled kernels here")


@needs_compiled
def test_the_kernels_that_are_installed_are_those_of_this_version():
    compiled.require_same_layout(compiled._kernels)


@pytest.mark.parametrize("key", compiled.layout())
def test_kernels_of_another_version_are_refused(key):
    """They would take one operation for another, and that would be seen nowhere."""
    other = SimpleNamespace(**compiled.layout() | {key: "SUM KEEP"}, __file__="old.so")
    with pytest.raises(ImportError, match=f"old.so.*another version .{key}"):
        compiled.require_same_layout(other)
    with pytest.raises(ImportError, match="another version"):
        compiled.require_same_layout(SimpleNamespace())


@needs_compiled
@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Op(99, (0,), (1.0,)), "unknown"),
        (Op(SUM, (1,), (1.0,)), "no input and no earlier"),
        (Op(SUM, (~0,), (1.0,)), "no input and no earlier"),
        (Op(KEEP, (0,), (1.0,)), "wrong number"),
        (Op(AROUND, (0, 0), (3, 0, 1.0, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0), (0, 0, 1.0, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0), (float("nan"), 0, 1.0, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0), (1, 1, 1.0, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0, 0), (1, 1, 1.0, 0.5, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0, 0), (3, 2, 1.0, 0.5, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0,), (1, 0, 1.0, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0), (2, 0, 1.0, 0.5)), "wrong number"),
        (Op(EQUAL, (0,), (1.0, 100), bytearray(64)), "multiple of a tile"),
        (Op(COUNT, (0,), (-1, 1), bytearray(64)), "a buffer of 64 bytes"),
        (Op(COUNT, (0,), (1 << 15, 1), bytearray(64)), "bad range"),
        (Op(NONZERO, (0,), (), bytearray()), "a buffer of 0 bytes"),
        (Op(MASK, (0,), (1.0,), b""), "a buffer of 0 bytes"),
    ],
)
def test_operations_that_cannot_be_are_refused(op, message):
    with pytest.raises(ValueError, match=message):
        compiled.run(None, "F32", [np.ones(8, np.float32)], ["F32"], [op], 8)


@needs_compiled
def test_rows_that_share_a_byte_have_no_bits():
    x = np.ones((2, 9), np.float32)
    with pytest.raises(ValueError, match="bad size"):
        compiled.prune(None, x, 2, 9, 0, 4, (1, 2), 0.5, 0.2, 1.0, np.empty(3, np.uint8))
