"""Measures against numpy over whole tensors, whatever the block size, and by layer."""

import math

import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec as tv
from taskvec.analysis import compare as measures
from taskvec.errors import MismatchError

NAMES = ("embed.weight", "h.0.a", "h.0.b", "h.1.a", "h.1.b")


def arrays(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {n: (scale * rng.standard_normal((37, 53)) * (rng.random((37, 53)) < 0.7)).astype("f4") for n in NAMES}


BASE = arrays(0)
MODELS = {k: {n: BASE[n] + d for n, d in arrays(k + 1, 0.1).items()} for k in range(3)}
base = tv.from_arrays(BASE, "base")
taus = {f"t{k}": tv.from_arrays(m, f"m{k}") - base for k, m in MODELS.items()}


def flat(k, names=NAMES):
    return np.concatenate([(MODELS[k][n] - BASE[n]).ravel() for n in names]).astype(np.float64)


@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
def test_norms_cosines_and_conflicts_are_numpy_s(monkeypatch, block):
    monkeypatch.setattr(measures, "BLOCK", block)
    whole = tv.compare(taus, base=base).whole
    for i in range(3):
        assert whole.norms[i] == pytest.approx(np.linalg.norm(flat(i)), rel=1e-12)
        ground = np.linalg.norm(np.concatenate([a.ravel() for a in BASE.values()]).astype("f8"))
        assert whole.relative[i] == pytest.approx(np.linalg.norm(flat(i)) / ground, rel=1e-12)
        for j in range(3):
            x, y = flat(i), flat(j)
            cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            assert whole.cosine[i][j] == pytest.approx(cosine, rel=1e-9, abs=1e-12)
            both = (x != 0) & (y != 0)
            assert whole.sign_conflict[i][j] == pytest.approx(np.mean(np.sign(x[both]) != np.sign(y[both])))


def test_layers_add_up_to_the_whole():
    comparison = tv.compare(taus, base=base)
    assert list(comparison.layers) == [measures.OUTSIDE, "h.0", "h.1"]
    assert comparison.layers["h.1"].norms[0] == pytest.approx(np.linalg.norm(flat(0, ("h.1.a", "h.1.b"))), rel=1e-12)
    squares = [pairs.dot[0][0] for pairs in comparison.layers.values()]
    assert math.fsum(squares) == pytest.approx(comparison.whole.dot[0][0], rel=1e-14)


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(measures, "BLOCK", 64)  # thirty parts a tensor
    alone = tv.compare(taus, base=base, threads=1)
    assert tv.compare(taus, base=base, threads=4) == alone
    monkeypatch.setattr(measures, "each", lambda items, work, memory, _: [work(i, memory()) for i in items[::-1]])
    assert tv.compare(taus, base=base, threads=4) == alone  # in whatever order the threads finish


def test_models_are_compared_with_the_base_taken_off(tmp_path):
    save_file(BASE, tmp_path / "base.safetensors")
    for k, model in MODELS.items():
        save_file(model, tmp_path / f"m{k}.safetensors")
    paths = [tmp_path / f"m{k}.safetensors" for k in MODELS]
    comparison = tv.compare(paths, base=tmp_path / "base.safetensors")
    assert comparison.names == ("m0.safetensors", "m1.safetensors", "m2.safetensors")
    assert comparison.whole.cosine == tv.compare(taus, base=base).whole.cosine


def test_a_zero_vector_has_no_cosine_and_json_says_null():
    zero = tv.from_arrays({n: np.zeros_like(a) for n, a in BASE.items()}, "zero", mass=0)
    comparison = tv.compare({"t": taus["t0"], "zero": zero})
    assert math.isnan(comparison.whole.cosine[0][1]) and math.isnan(comparison.whole.relative[0])
    assert comparison.as_dict()["whole"]["cosine"][0][1] is None


def test_tensors_that_differ_are_all_named():
    other = tv.from_arrays({n: a[:5] for n, a in BASE.items()}, "other")
    with pytest.raises(MismatchError) as error:
        tv.compare({"t": taus["t0"], "other": other})
    assert all(name in str(error.value) for name in NAMES)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_heat_map_is_a_picture(tmp_path, suffix):
    from taskvec.report.plots import cosine_heatmap

    cosine_heatmap(tv.compare(taus), tmp_path / f"cosine.{suffix}")
    assert (tmp_path / f"cosine.{suffix}").read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_vectors_of_one_name_are_numbered_and_none_is_lost():
    vectors = [tv.from_arrays(MODELS[k % 3], name) for k, name in enumerate(("m", "m_3", "m", "m"))]
    assert tv.compare(vectors).names == ("m", "m_3", "m_4", "m_5")
