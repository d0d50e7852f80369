"""The kernels in numpy read files on their own; what they compute is tested in test_contract.py."""

import os

import numpy as np

from kernel_reference import draws
from taskvec.numbers import in_numpy
from taskvec.numbers.operations import SUM, Op


def test_a_file_that_is_read_in_short_pieces_is_read_whole(tmp_path, monkeypatch):
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 3), at))
    (tmp_path / "x").write_bytes(np.float32([1, 2, 3]).tobytes())
    with (tmp_path / "x").open("rb") as file:
        out = np.zeros(3, np.float32)
        in_numpy.run(out, "F32", [(file.fileno(), 0)], ["F32"], [Op(SUM, (0,), (1,))], 3)
    assert out.tolist() == [1, 2, 3]


def test_an_entry_draws_the_same_wherever_a_range_begins():
    for start, n in ((0, 0), (1, 1), (7, 2), (8, 8), (9, 91), (15, 33), (2**40 + 3, 20)):
        drawn = in_numpy.draws(start, n, 6, (3, 4))
        assert drawn.dtype == np.uint32 and np.array_equal(drawn, draws(start, n, 6, (3, 4)))
