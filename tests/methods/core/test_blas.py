"""One BLAS thread at a time, and as many as before afterwards."""

import pytest


def test_the_number_of_blas_threads_is_set_back():
    from taskvec.methods.core import blas

    if not (switch := blas._switch()):
        pytest.skip("numpy's BLAS is not OpenBLAS")
    before = switch[0]()
    with blas.one_thread():
        with blas.one_thread():
            assert switch[0]() == 1
        assert switch[0]() == 1
    assert switch[0]() == before
    with pytest.raises(ZeroDivisionError), blas.one_thread():
        1 / 0  # noqa: B018
    assert switch[0]() == before
