"""What every source says of itself: headers, fingerprints, stamps; and arrays in memory as a source."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MassError
from taskvec.sources.abilities import refuse_statistics, written
from taskvec.sources.in_memory import ArraySource
from taskvec.sources.source import PROBE_BYTES, PROBES, Spec, fingerprint, samples


def test_the_stamp_covers_names_shapes_dtypes_and_every_byte():
    def stamp(**its):
        (source,) = tv.from_arrays(its).terms
        return source.stamp()

    one = np.arange(6, dtype=np.float32)
    stamps = [stamp(w=one), stamp(v=one), stamp(w=one.reshape(2, 3)), stamp(w=one.view(np.int32)), stamp(w=one, v=one),
              stamp(w=np.append(one[:-1], 9).astype(np.float32)), stamp(w=one[:0])]  # fmt: skip
    assert len({*stamps}) == len(stamps) and stamp(w=one.copy()) == stamps[0]


def array(**arrays):
    (only,) = tv.from_arrays(arrays, "m").terms
    return only


# ---- headers --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "dtype", "numel", "nbytes", "arithmetic"),
    [((), "F32", 1, 4, True), ((3, 4), "BF16", 12, 24, True), ((0, 5), "F64", 0, 0, True), ((4,), "F4", 4, 2, False),
     ((8,), "F6_E2M3", 8, 6, False), ((2,), "I64", 2, 16, False), ((5,), "F8_E4M3", 5, 5, True)],
)  # fmt: skip
def test_a_header_knows_its_size(shape, dtype, numel, nbytes, arithmetic):
    spec = Spec(shape, dtype)
    assert (spec.numel, spec.nbytes, spec.arithmetic) == (numel, nbytes, arithmetic)
    assert str(spec) == f"{dtype}{list(shape)}" and {spec, Spec(shape, dtype)} == {spec}


# ---- fingerprints ---------------------------------------------------------------------------------------
def test_small_tensors_are_sampled_whole_and_large_ones_in_four_places():
    assert PROBES * PROBE_BYTES == 16384
    most = PROBE_BYTES // 4
    assert samples(Spec((0,), "F32")) == [] and samples(Spec((), "F32")) == [(0, 1)]
    assert samples(Spec((4 * most,), "F32")) == [(0, 4 * most)]
    assert samples(Spec((4 * most + 3,), "F32")) == [(k * most, most) for k in range(4)]
    assert samples(Spec((7 * most,), "F32")) == [(k * 2 * most, most) for k in range(4)]
    assert samples(Spec((10**6,), "I8")) == [(k * 331968, 4096) for k in range(4)]


@pytest.mark.parametrize("dtype", ["F64", "BF16", "F4", "F6_E3M2"])
def test_samples_begin_at_whole_bytes_and_lie_within_the_tensor(dtype):
    for numel in (40_000, 99_999, 123_456):
        ranges = samples(Spec((numel,), dtype))
        assert len(ranges) == 4 and all(start % 8 == 0 and start + count <= numel for start, count in ranges)
        assert ranges[-1][0] + ranges[-1][1] > 0.99 * numel


def test_a_fingerprint_is_that_of_names_headers_and_samples():
    """Computed once more by its definition."""
    from blake3 import blake3

    rng = np.random.default_rng(0)
    given = {
        "b": rng.standard_normal((200, 100)).astype("f4"),
        'a"': rng.integers(0, 9, 5),
        "c": np.zeros((0, 2), "f2"),
    }
    source = array(**given)
    state = blake3()
    state.update(b'["a\\"","I64",[5]]' + given['a"'].tobytes())
    flat = given["b"].ravel()
    state.update(b'["b","F32",[200,100]]' + b"".join(flat[k * 6320 :][:1024].tobytes() for k in range(4)))
    state.update(b'["c","F16",[0,2]]')
    assert source.fingerprint == fingerprint(source.specs, source.readinto) == state.hexdigest()


def test_the_order_of_tensors_is_no_part_of_a_fingerprint():
    one, two = np.ones(3, "f4"), np.zeros(2, "f4")
    assert array(a=one, b=two).fingerprint == array(b=two, a=one).fingerprint
    prints = [array(**x).fingerprint for x in ({"a": one}, {"b": one}, {"a": 2 * one}, {"a": one.view("i4")})]
    assert len({*prints}) == 4


# ---- what others ask of a source ----------------------------------------------------------------------------
def test_statistics_are_refused_by_name_where_weights_are_summed():
    x = {"w": np.ones(2, "f4")}
    plain, fisher, gram = (next(iter(tv.from_arrays(x, n, statistic=s).terms)) for n, s in
                           (("a", ""), ("f", "fisher"), ("g", "gram")))  # fmt: skip
    refuse_statistics([plain])
    with pytest.raises(MassError) as told:
        refuse_statistics([fisher, plain, gram])
    lines = ["f holds fisher statistics: only a method takes them", "g holds gram statistics: only a method takes them"]
    assert str(told.value) == "\n  - ".join(["statistics are no weights:", *lines])


def test_a_source_is_written_by_its_name_and_a_call_as_it_writes_itself():
    one = array(w=np.ones(2, "f4"))
    assert written(one, {}) == "m" and written(one, {one: "base"}) == "base"
    m = tv.from_arrays({"w": np.ones(2, "f4")}, "m")
    ((call, _),) = tv.rename(m, {"w": "v"}).terms.items()
    (inner,) = m.terms
    assert written(call, {inner: "base"}) == 'rename(base, {"w": "v"})'
    assert isinstance(one, ArraySource)
