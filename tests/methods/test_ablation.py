"""Directions that a model can no longer write: the paper's projection, its laws, and input that does not fit."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import taskvec as tv
from taskvec.errors import MismatchError, RecipeError, UnboundKnob
from taskvec.methods.ablation import SLAB, orthonormal

LLAMA = {
    "model.embed_tokens.weight": (11, 6), "model.norm.weight": (6,), "lm_head.weight": (11, 6),
    **{f"model.layers.{k}.{n}": s for k in range(2) for n, s in {
        "self_attn.q_proj.weight": (6, 6), "self_attn.o_proj.weight": (6, 6), "mlp.up_proj.weight": (9, 6),
        "mlp.down_proj.weight": (6, 9), "mlp.down_proj.bias": (6,), "input_layernorm.weight": (6,)}.items()},
}  # fmt: skip
BERT = {
    "embeddings.word_embeddings.weight": (11, 6), "embeddings.position_embeddings.weight": (5, 6),
    **{f"encoder.layer.0.{n}": s for n, s in {
        "attention.self.query.weight": (6, 6), "attention.output.dense.weight": (6, 6),
        "attention.output.dense.bias": (6,), "intermediate.dense.weight": (8, 6), "output.dense.weight": (6, 8),
        "output.dense.bias": (6,), "output.LayerNorm.weight": (6,)}.items()},
}  # fmt: skip
GPT2 = {
    "wte.weight": (11, 6), "wpe.weight": (5, 6), "h.0.attn.c_attn.weight": (6, 18), "h.0.attn.c_proj.weight": (6, 6),
    "h.0.attn.c_proj.bias": (6,), "h.0.mlp.c_fc.weight": (6, 24), "h.0.mlp.c_proj.weight": (24, 6), "ln_f.weight": (6,),
}  # fmt: skip
OUTPUTS = re.compile(r"embed|wte|wpe|o_proj|down_proj|output\.dense|c_proj")  # what the paper names, in other words


def arrays(shapes, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def directions(rows, name="r"):
    return tv.from_arrays({"directions": np.asarray(rows, np.float32)}, name)


def eager(weights, r, conv1d=False):
    """W - R R^T W with an orthonormal R (d, k): vectors of the stream are rows of embeddings, columns of outputs."""
    basis, _ = np.linalg.qr(np.atleast_2d(r).astype(np.float64).T)
    edited = {}
    for name, w in weights.items():
        rows = "embed" in name or "wte" in name or "wpe" in name or (conv1d and w.ndim == 2)
        if OUTPUTS.search(name):
            w = w - w @ basis @ basis.T if rows else w - basis @ (basis.T @ w)
        edited[name] = w
    return edited


# ---- ablate --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shapes", [LLAMA, BERT, GPT2], ids=["llama", "bert", "gpt2"])
def test_ablate_is_the_paper_s_projection_and_touches_nothing_else(shapes, k):
    weights, r = arrays(shapes), np.random.default_rng(1).normal(size=(k, 6)).astype(np.float32)
    ablated = tv.ablate(tv.from_arrays(weights, "m"), directions(r if k > 1 else r[0]))
    assert ablated.mass == 1
    wanted = eager(weights, r, conv1d=shapes is GPT2)
    for name, w in weights.items():
        if OUTPUTS.search(name):
            np.testing.assert_allclose(ablated[name], wanted[name], atol=1e-6, err_msg=name)
            assert not np.array_equal(ablated[name], w)
        else:
            assert np.array_equal(ablated[name].view(np.uint32), w.view(np.uint32)), name


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from([1e-20, 1e-3, 1, 1e6, 1e20]))
def test_nothing_along_the_directions_is_left_and_twice_is_once(seed, k, scale):
    rng = np.random.default_rng(seed)
    r = rng.normal(size=(k, 6)).astype(np.float32)
    m = tv.from_arrays(arrays(LLAMA, seed), "m")
    d = directions(scale * r)
    once = tv.ablate(m, d)
    twice = tv.ablate(once, d)
    for name in filter(OUTPUTS.search, LLAMA):
        w = once[name] if "embed" in name else once[name].T
        assert np.abs(w @ (r / np.linalg.norm(r, axis=1, keepdims=True)).T).max() < 3e-6, name
        np.testing.assert_allclose(twice[name], once[name], atol=2e-6)


def test_the_length_sign_and_angle_of_the_directions_do_not_matter():
    m, r = tv.from_arrays(arrays(LLAMA), "m"), np.random.default_rng(2).normal(size=(2, 6))
    mixed = [r[0] + 0.3 * r[1], -7 * r[1]]
    for name in LLAMA:
        np.testing.assert_allclose(tv.ablate(m, directions(mixed))[name], tv.ablate(m, directions(r))[name], atol=2e-6)


def test_it_works_on_sums_and_vectors_and_goes_through_them():
    a, b, base = (tv.from_arrays(arrays(LLAMA, s), f"m{s}") for s in (0, 1, 2))
    d = directions(np.arange(1, 7))
    tau = tv.ablate(b - base, d)
    assert tau.mass == 0
    whole, parts = tv.ablate(0.5 * a + 0.5 * b, d), 0.5 * tv.ablate(a, d) + 0.5 * tv.ablate(b, d)
    for name in LLAMA:
        np.testing.assert_allclose(whole[name], parts[name], atol=2e-6)
        np.testing.assert_allclose(tau[name], tv.ablate(b, d)[name] - tv.ablate(base, d)[name], atol=2e-6)
    assert np.array_equal(whole["lm_head.weight"], (0.5 * a + 0.5 * b)["lm_head.weight"])


def test_float64_stays_and_integers_pass():
    weights = arrays(LLAMA, dtype=np.float64) | {"ids": np.arange(4)}
    ablated = tv.ablate(tv.from_arrays(weights, "m"), directions([1, 2, 3, 4, 5, 6]))
    name = "model.layers.1.mlp.down_proj.weight"
    assert ablated[name].dtype == np.float64 and ablated["ids"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(ablated[name], eager(weights, [1, 2, 3, 4, 5, 6])[name], atol=1e-14)
    assert np.abs(np.arange(1, 7) @ ablated[name]).max() < 1e-13


def test_ones_own_patterns_and_the_axis():
    weights = arrays({"a.up": (6, 4), "a.down": (4, 6), "a.square": (6, 6), "a.other": (6, 6)})
    m, r = tv.from_arrays(weights, "m"), np.arange(1, 7) / np.sqrt(91)
    ablated = tv.ablate(m, directions(r), patterns="*.up *.down a.square@1")
    assert np.abs(r @ ablated["a.up"]).max() < 1e-6 and np.abs(ablated["a.down"] @ r).max() < 1e-6
    assert np.abs(ablated["a.square"] @ r).max() < 1e-6 < np.abs(r @ ablated["a.square"]).max()
    assert np.array_equal(ablated["a.other"], weights["a.other"])
    plain = tv.ablate(m, directions(r), patterns="*.square")
    assert np.abs(r @ plain["a.square"]).max() < 1e-6


def test_ablate_streams_to_the_same_bytes_prints_and_remembers_its_directions(build, tmp_path):
    wide = SLAB // 100 + 3
    shapes = {"model.embed_tokens.weight": (90, 300), "model.norm.weight": (300,)}
    shapes |= {f"model.layers.0.{n}": s for n, s in {
        "self_attn.o_proj.weight": (300, 300), "mlp.down_proj.weight": (300, wide)}.items()}  # fmt: skip
    build.model(tmp_path / "m", build.tensors(0, shapes, np.float16))
    build.model(tmp_path / "r", build.tensors(1, {"r": (2, 300)}))
    m, r = tv.load(tmp_path / "m"), tv.load(tmp_path / "r")
    w = tv.parse("ablate(m, r)", m=m, r=r)
    assert w == tv.ablate(m, r) and tv.parse(str(w)) == w and w.text(w.names()) == "ablate(m, r)"
    assert tv.plan(w).passes == 2 and tv.plan(tv.ablate(m, r, patterns="*embed_tokens.weight")).passes == 1
    seen = []
    tv.save(w, tmp_path / "one", threads=1, progress=lambda done, total: seen.append(done <= total))
    tv.save(tv.parse(str(w)), tmp_path / "two", threads=4, ram="200MB", shard_size="200KB")
    one, two = tv.load(tmp_path / "one"), tv.load(tmp_path / "two")
    assert all(seen) and one.specs == m.specs
    for name in m:
        assert np.array_equal(one[name], two[name]) and np.array_equal(one[name], w[name].astype(np.float16)), name
    assert np.array_equal(w["model.embed_tokens.weight"][40:50], w.read("model.embed_tokens.weight", slice(40, 50)))
    assert '"r"' in (tmp_path / "one/taskvec.json").read_text()


@pytest.mark.parametrize("axis", [0, 1])
def test_any_range_of_an_ablated_matrix_is_a_part_of_the_whole(axis):
    shape = (700, 333) if axis == 0 else (333, 700)
    m = tv.from_arrays({"w": np.random.default_rng(0).normal(size=shape).astype("f4")}, "m")
    r = np.random.default_rng(1).normal(size=(2, 700))
    source = next(iter(tv.ablate(m, directions(r), patterns=f"w@{axis}").terms))
    whole = np.empty(700 * 333, np.float32)
    source.readinto("w", 0, memoryview(whole.view(np.uint8)))
    for start, count in [(1, 7), (100, 333), (77_777, 100_001), (700 * 333 - 1, 1)]:
        part = np.empty(count, np.float32)
        source.readinto("w", start, memoryview(part.view(np.uint8)))
        assert np.array_equal(part, whole[start : start + count])


def test_orthonormal_is_a_basis_of_the_same_span():
    rows = np.random.default_rng(0).normal(size=(4, 9))
    rows[3] = rows[0] + 1e-4 * rows[3]  # nearly dependent: once would leave 1e-12
    basis = orthonormal(rows)
    np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-15)
    np.testing.assert_allclose(rows @ basis.T @ basis, rows, atol=1e-12)


def m(**more):
    return tv.from_arrays(arrays(LLAMA) | more, "m")


@pytest.mark.parametrize(
    ("model", "rows", "patterns", "kind", "message"),
    [
        (m(), np.ones(5), "", MismatchError, r"(?s)directions do not fit.*embed_tokens.weight.*down_proj.bias"),
        (m(), np.zeros(6), "", RecipeError, "direction 1 is zero"),
        (m(), [np.ones(6), np.zeros(6)], "", RecipeError, "direction 2 is zero"),
        (m(), [1, 2, np.nan, 0, 0, 0], "", RecipeError, "direction 1 is not finite"),
        (m(), [np.ones(6), np.arange(6), 3 * np.arange(6) + 1], "", RecipeError, "direction 3 lies in the span"),
        (m(), np.ones((1, 2, 6)), "", RecipeError, r"\(k, d\) or \(d,\), and directions is \[1, 2, 6\]"),
        (m(), np.ones((0, 6)), "", RecipeError, r"directions is \[0, 6\]"),
        (m(), np.ones(6), "*.w_out.weight", RecipeError, r"(?s)no tensor fits.*w_out"),
        (m(), np.ones(6), "*.down_proj.* *.typo", RecipeError, r"(?s)no tensor fits.*\*\.typo"),
        (m(), np.ones(6), "*.up_proj.weight@0", MismatchError, r"up_proj.weight is F32\[9, 6\], and its axis 0 should"),
        (tv.from_arrays(arrays({"w": (6, 6)})), np.ones(6), "", RecipeError, r"(?s)no tensor fits.*o_proj"),
        (m(**{"model.layers.1.post_feedforward_layernorm.weight": np.ones(6, "f4")}), np.ones(6), "", RecipeError,
         r"(?s)not clear what writes.*layers.1.post_feedforward_layernorm.weight scales what its layer writes"),
        (m(**{"shared.weight": np.ones((9, 6), "f4")}), np.ones(6), "", RecipeError,
         r"(?s)not clear what writes.*shared.weight is an embedding"),
        (m(**{"model.layers.2.mlp.fc2.weight": np.ones((6, 6), "f4")}), np.ones(6), "", RecipeError,
         r"(?s)not clear what writes.*model.layers.2: 0 of its"),
    ],
)  # fmt: skip
def test_directions_and_patterns_that_do_not_fit_are_stated(tmp_path, model, rows, patterns, kind, message):
    with pytest.raises(kind, match=message):
        tv.save(tv.ablate(model, directions(rows), patterns=patterns), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_arguments_that_ablate_cannot_take_are_stated():
    with pytest.raises(RecipeError, match="takes a model or a task vector, and directions"):
        tv.ablate(m(), 3)
    with pytest.raises(RecipeError, match="the directions are one tensor"):
        tv.ablate(m(), m())
    with pytest.raises(RecipeError, match="patterns is a text"):
        tv.ablate(m(), directions(np.ones(6)), patterns=("*.o_proj",))
    free = tv.parse("ablate(a + lam*(b - a), r)", a=m(), b=m(), r=directions(np.ones(6)))
    with pytest.raises(UnboundKnob):
        free.read("lm_head.weight")
    assert free.bind(lam=0.5).mass == 1


# ---- patch -----------------------------------------------------------------------------------------------


# ---- freeze_conflicts -----------------------------------------------------------------------------------------
