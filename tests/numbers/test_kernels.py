"""The compiled kernels and the package agree; what the kernels compute is in laws/test_kernels.py."""

from types import SimpleNamespace

import pytest

from taskvec.numbers import kernels, operations


def test_the_names_of_operations_stand_at_their_codes():
    assert [getattr(operations, name) for name in operations.NAMES] == [*range(len(operations.NAMES))]


@pytest.mark.skipif(not kernels.COMPILED, reason="there are no compiled kernels here")
def test_the_kernels_that_are_installed_are_those_of_this_version():
    kernels.require_same_layout(kernels._kernels)


@pytest.mark.parametrize("key", kernels.layout())
def test_kernels_of_another_version_are_refused(key):
    """They would take one operation for another, and that would be seen nowhere."""
    other = SimpleNamespace(**kernels.layout() | {key: "SUM KEEP"}, __file__="old.so")
    with pytest.raises(ImportError, match=f"old.so.*another version .{key}"):
        kernels.require_same_layout(other)
    with pytest.raises(ImportError, match="another version"):
        kernels.require_same_layout(SimpleNamespace())
