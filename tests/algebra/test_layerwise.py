"""A knob for each layer or tensor of a vector."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec as tv
from taskvec.errors import RecipeError

NAMES = ["embed.weight", "layers.0.weight", "layers.1.weight", "layers.2.weight"]


def arrays(seed, names=NAMES):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal((6, 5)).astype(np.float32) for n in names}


BASE, TUNED = arrays(0), arrays(1)
base, a = tv.from_arrays(BASE, "base"), tv.from_arrays(TUNED, "a")


def vector(*names, **more):
    return tv.from_arrays(arrays(0, names) | more, "v", mass=0)


def test_layerwise_has_a_knob_a_layer_or_tensor_and_its_text_is_read_back(tmp_path):
    one = tv.layerwise(a - base, "u")
    assert one.knobs == {"u_0", "u_1", "u_2", "u_rest"}
    values = {k: n / 10 for n, k in enumerate(sorted(one.knobs))}
    made = (base + one.bind(**values))["layers.1.weight"]
    assert made == pytest.approx(BASE["layers.1.weight"] + 0.1 * (TUNED["layers.1.weight"] - BASE["layers.1.weight"]))
    assert tv.layerwise(a - base, by="tensor").knobs == {f"lam_{k}" for k in range(4)}
    for name, content in (("base", BASE), ("a", TUNED)):
        save_file(content, tmp_path / f"{name}.safetensors")
    ours = tv.load(tmp_path / "base.safetensors")
    family = ours + tv.layerwise(tv.load(tmp_path / "a.safetensors") - ours)
    assert tv.parse(str(family)) == family
    with pytest.raises(RecipeError, match="layer or tensor"):
        tv.layerwise(a - base, by="row")


def test_layers_of_several_stacks_have_knobs_of_their_own():
    plain = vector("enc.0.w", "enc.1.w", "dec.0.w", "dec.0.b")
    made = tv.layerwise(plain)
    assert made.knobs == {"lam_0_0", "lam_0_1", "lam_1_0"}
    bound = made.bind(lam_0_0=2, lam_0_1=3, lam_1_0=5)
    for name, factor in (("enc.0.w", 2), ("enc.1.w", 3), ("dec.0.w", 5), ("dec.0.b", 5)):
        assert np.array_equal(bound[name], factor * plain[name]), name


def test_names_may_begin_with_the_number_of_the_layer():
    assert tv.layerwise(vector("0.w", "1.w")).bind(lam_0=0, lam_1=1)["1.w"].any()


def test_every_tensor_has_its_number_in_the_order_of_the_vector():
    v = vector("b", "a")
    bound = tv.layerwise(v, "t", by="tensor").bind(t_0=1, t_1=0)
    assert np.array_equal(bound["b"], v["b"]) and not bound["a"].any()


def test_what_is_not_summed_has_no_knob():
    for by in ("layer", "tensor"):
        made = tv.layerwise(vector("layers.0.w", **{"layers.1.steps": np.arange(3), "ids": np.arange(3)}), by=by)
        assert made.knobs == {"lam_0"}


def test_only_a_vector_has_layers():
    with pytest.raises(RecipeError, match="layerwise works on a task vector, not on int"):
        tv.layerwise(5)
    with pytest.raises(RecipeError, match="by is layer or tensor, not 'row'"):
        tv.layerwise(5, by="row")
