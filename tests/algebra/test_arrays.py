"""Arrays as weights: which are taken, for what dtype, and which are refused."""

import ml_dtypes
import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import TaskvecError
from taskvec.sources.source import Spec


def test_arrays_are_taken_for_what_they_are():
    for kind in (">f4", ">f2", ">f8", ">i4"):
        values = np.arange(4).astype(kind)
        assert tv.from_arrays({"w": values}).read("w").tolist() == [0, 1, 2, 3]
    for wrong in (np.ma.masked_array([1.0], [True]), [1.0, 2.0], 1.0):
        with pytest.raises(tv.TaskvecError, match=r"w is a .*, not a plain numpy array"):
            tv.from_arrays({"w": wrong})


def source(*given, **options):
    (only,) = tv.from_arrays(*given, **options).terms
    return only


@pytest.mark.parametrize(
    ("dtype", "short"),
    [("f2", "F16"), ("f4", "F32"), ("f8", "F64"), ("i1", "I8"), ("i2", "I16"), ("i4", "I32"), ("i8", "I64"),
     ("u1", "U8"), ("u2", "U16"), ("u4", "U32"), ("u8", "U64"), ("bool", "BOOL"), ("c8", "C64"), (">i2", "I16"),
     (ml_dtypes.bfloat16, "BF16"), (ml_dtypes.float8_e4m3fn, "F8_E4M3"), (ml_dtypes.float8_e5m2, "F8_E5M2")],
)  # fmt: skip
def test_every_dtype_has_its_name_in_the_format_and_keeps_its_bytes(dtype, short):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    made = source({"w": array})
    assert made.specs == {"w": Spec((2, 3), short)}
    out = bytearray(array.nbytes)
    made.readinto("w", 0, memoryview(out))
    assert out == array.astype(array.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("dtype", ["longdouble", "c16", "S3", "M8[s]", ml_dtypes.float8_e4m3b11fnuz, "O"])
def test_a_dtype_that_the_format_does_not_know_is_refused_by_the_tensor(dtype):
    with pytest.raises(TaskvecError, match=r"v has dtype .*, which the safetensors format does not know"):
        tv.from_arrays({"w": np.ones(1, "f4"), "v": np.zeros(2, dtype)})


@pytest.mark.parametrize("mass", [2, -1, 0.5, "1", None])
def test_a_mass_is_that_of_a_model_or_of_a_task_vector(mass):
    with pytest.raises(TaskvecError, match=f"mass is 1 for a model and 0 for a task vector, not {mass!r}"):
        tv.from_arrays({"w": np.ones(1, "f4")}, mass=mass)


def test_what_is_said_of_arrays_is_what_they_are():
    one = {"w": np.ones(1, "f4")}
    assert (source(one).text, source(one).mass, source(one).statistic, source(one).base) == ("arrays", 1, "", None)
    assert (source(one, "m", 0).text, source(one, "m", 0).mass) == ("m", 0)
    statistics = source(one, statistic="fisher")
    assert (statistics.mass, statistics.statistic) == (0, "fisher"), "statistics are no model"


def test_arrays_are_not_copied_unless_they_must_be():
    """What lies in order is read where it lies; columns and numbers of the other byte order are copied."""
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    weights = tv.from_arrays({"w": whole, "columns": whole[:, ::2], "scalar": np.float32(3), "none": whole[:0]})
    whole[0, 0] = 7
    assert weights["w"][0, 0] == 7 and weights["columns"].tolist() == [[0, 2], [4, 6], [8, 10]]
    assert weights["scalar"].shape == () and weights["scalar"] == 3 and weights["none"].shape == (0, 4)
