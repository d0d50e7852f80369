"""Arrays as weights: which are taken, for what dtype, and which are refused."""

import ml_dtypes
import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FingerprintError, MismatchError, TaskvecError
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


# ---- of a base ----------------------------------------------------------------------------------------------
BASE = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "v": np.ones(4, np.float32)}


def test_a_task_vector_may_name_some_tensors_of_its_base_and_is_zero_in_the_others(tmp_path):
    base = tv.from_arrays(BASE, "base")
    tau = tv.from_arrays({"v": np.full(4, 0.5, np.float32)}, "tau", mass=0, base=base)
    tuned = base + 2 * tau
    assert tuned["v"].tolist() == [2, 2, 2, 2] and tuned["w"].tolist() == BASE["w"].tolist()
    assert (base + tau) - tau == base
    tv.save(tau, tmp_path / "tau.safetensors")
    assert (base + 2 * tv.load(tmp_path / "tau.safetensors"))["v"].tolist() == [2, 2, 2, 2]


def test_without_a_base_a_vector_must_name_every_tensor():
    base = tv.from_arrays(BASE, "base")
    with pytest.raises(TaskvecError, match="w"):
        (base + tv.from_arrays({"v": np.ones(4, np.float32)}, "tau", mass=0)).specs  # noqa: B018


def test_a_vector_is_refused_on_a_base_that_it_was_not_made_for(tmp_path):
    base = tv.from_arrays(BASE, "base")
    other = tv.from_arrays({name: array + 1 for name, array in BASE.items()}, "other")
    tau = tv.from_arrays({"v": np.ones(4, np.float32)}, "tau", mass=0, base=base)
    with pytest.raises(FingerprintError, match="tau was made from the model"):
        tv.save(other + tau, tmp_path / "wrong.safetensors")
    tv.save(base + tau, tmp_path / "right.safetensors")
    assert tv.load(tmp_path / "right.safetensors")["v"].tolist() == [2, 2, 2, 2]


def test_a_vector_that_does_not_fit_its_base_is_told_with_every_tensor():
    base = tv.from_arrays(BASE, "base")
    wrong = {"w": np.ones((3, 2), np.float32), "x": np.ones(1, np.float32), "v": np.ones(4, np.float32)}
    with pytest.raises(MismatchError, match="tau does not fit the model that it is to change") as error:
        tv.from_arrays(wrong, "tau", mass=0, base=base)
    assert "x is not in base" in str(error.value) and "w is [3, 2] in tau and [2, 3] in base" in str(error.value)


def test_a_base_is_a_single_model_and_only_a_task_vector_has_one():
    base, other = tv.from_arrays(BASE, "base"), tv.from_arrays(BASE, "other")
    tau = tv.from_arrays(BASE, "tau", mass=0)
    for options in (
        {"mass": 1, "base": base}, {"mass": 0, "base": 0.5 * base + 0.5 * other}, {"mass": 0, "base": tau},
        {"mass": 0, "base": base + tau}, {"mass": 0, "base": base, "statistic": "fisher"},
    ):  # fmt: skip
        with pytest.raises(TaskvecError, match="base is the model, a single one, that a task vector"):
            tv.from_arrays({"v": np.ones(4, np.float32)}, **options)
