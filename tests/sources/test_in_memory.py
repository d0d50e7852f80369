"""Arrays in memory as a source."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import SourceChanged
from taskvec.sources.source import fingerprint


def array(**arrays):
    (only,) = tv.from_arrays(arrays, "m").terms
    return only


def test_any_range_of_an_array_is_read():
    x = np.arange(10, dtype=np.float64)
    source = array(w=x.reshape(2, 5))
    for start, count in ((0, 10), (3, 4), (9, 1), (5, 0)):
        out = bytearray(8 * count)
        source.readinto("w", start, memoryview(out))
        assert out == x[start : start + count].tobytes()


def test_arrays_say_where_they_lie():
    x = np.arange(6, dtype=np.float32)
    (place,) = array(w=x, none=x[:0]).addresses()
    assert place == ("w", x.ctypes.data, x.ctypes.data + 24)


@pytest.mark.parametrize("asked", ["stamp", "fingerprint"])
def test_an_array_that_changes_after_it_was_asked_for_is_an_error(asked):
    x = np.zeros(50_000, np.float32)
    source = array(w=x)
    source.require_unchanged()
    x[0] = 1  # nobody had asked yet
    source.require_unchanged()
    first = source.stamp() if asked == "stamp" else source.fingerprint
    source.require_unchanged()
    x[0] = 2
    with pytest.raises(SourceChanged, match=r"m: an array in memory changed after it was read; nothing was written"):
        source.require_unchanged()
    assert asked == "fingerprint" or source.stamp() != first
    with pytest.raises(SourceChanged, match="call from_arrays again to use the new numbers"):
        source.require_unchanged()
    x[0] = 1
    source.require_unchanged()


def test_only_a_stamp_sees_what_lies_between_the_samples_of_a_fingerprint():
    x = np.zeros(50_000, np.float32)
    source = array(w=x)
    before, stamp = source.fingerprint, source.stamp()
    x[2000] = 1
    assert fingerprint(source.specs, source.readinto) == before and source.stamp() != stamp
