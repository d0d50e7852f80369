"""Statistics of BatchNorm: measured as torch measures them in training, averaged, and set by a change of the base."""

import numpy as np
import pytest
import torch

from lab.tiny_images import tiny_image_suite
from taskvec.errors import RecipeError
from taskvec.evals.texts import read
from taskvec.lab.batchnorm import (
    BATCH,
    averaged,
    change,
    has_statistics,
    inputs,
    measured,
    normalisations,
    repaired,
)  # fmt: skip
from taskvec.lab.bench import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    home = tmp_path_factory.mktemp("batchnorm")
    return Bench(tiny_image_suite(home), range(1), home / "out", home / "cache")


def shown(bench, *names):
    return [(bench.tasks.tasks[name], [*read(bench.data[name].file("train"))]) for name in names]


def test_what_has_statistics(bench):
    assert has_statistics(bench.base)
    live = bench.tasks.tasks["bars"].live
    layers = normalisations(live.module)
    assert set(layers) == {name.removesuffix(".running_var") for name in bench.base.specs if "running_var" in name}
    assert (
        normalisations(torch.nn.Sequential(torch.nn.LayerNorm(3), torch.nn.BatchNorm1d(3, track_running_stats=False)))
        == {}
    )


def test_they_are_the_mean_and_the_variance_of_what_reaches_the_layer(bench):
    """The first layer, whose input depends on nothing that is measured, and one batch: by numpy."""
    (pair,) = shown(bench, "bars")
    assert len(pair[1]) <= BATCH
    found = measured(bench.base, [pair])
    module = pair[0].live.take(bench.base)
    with torch.no_grad():
        inputs = module._conv_stem(pair[0].pixels(pair[1])).numpy()
    assert np.allclose(found["_bn0.running_mean"], inputs.mean((0, 2, 3)), atol=1e-5)
    count = inputs.size // inputs.shape[1]
    assert np.allclose(found["_bn0.running_var"], inputs.var((0, 2, 3)) * count / (count - 1), rtol=1e-4)


def test_batches_count_alike_and_tasks_take_turns(bench):
    pairs = shown(bench, "bars", "corners")
    found = measured(bench.base, pairs)
    module = pairs[0][0].live.take(bench.base)
    turns = [p for both in zip(*(e for _, e in pairs), strict=True) for p in both]
    with torch.no_grad():
        inputs = [module._conv_stem(pairs[0][0].pixels(turns[k : k + BATCH])) for k in range(0, len(turns), BATCH)]
    assert len(inputs) == 2
    assert np.allclose(found["_bn0.running_mean"], np.mean([x.mean((0, 2, 3)).numpy() for x in inputs], 0), atol=1e-5)


def test_a_model_can_be_given_them_and_then_normalises_with_them(bench):
    pairs = shown(bench, "sides")
    found = measured(bench.base, pairs)
    model = bench.base + change(bench.base, found, "anew")
    live = pairs[0][0].live
    state = live.take(model).state_dict()
    for name, values in found.items():
        assert np.allclose(state[name].numpy(), values, rtol=1e-5, atol=1e-6), name
    assert torch.equal(state["_conv_stem.weight"], torch.from_numpy(bench.base["_conv_stem.weight"]))
    assert bench.scores(model, ["sides"], "test") != bench.scores(bench.base, ["sides"], "test")


def test_a_model_that_was_not_edited_keeps_its_statistics_when_it_is_repaired(bench):
    pairs = shown(bench, "bars", "corners")
    found = repaired(bench.base, pairs, inputs(bench.base, pairs))
    assert set(found) == {name for name in bench.base.specs if "running" in name}
    for name, values in found.items():
        assert np.allclose(values, bench.base[name], rtol=1e-3, atol=1e-4), name


def test_after_a_repair_every_layer_gives_what_the_other_models_gave(bench):
    pairs = shown(bench, "bars", "corners")
    one, two = (bench.base + bench.vector(name, 0) for name in ("bars", "corners"))
    wanted = averaged([inputs(one, pairs), inputs(two, pairs)])
    edited = bench.base + bench.vector("bars", 0) + bench.vector("corners", 0)
    model = edited + change(bench.base, repaired(edited, pairs, wanted), "repaired")
    found = inputs(model, pairs)
    for name, layer in normalisations(pairs[0][0].live.take(model)).items():
        m, v = layer.running_mean.numpy(), layer.running_var.numpy() + layer.eps
        old_m, old_v = bench.base[f"{name}.running_mean"], bench.base[f"{name}.running_var"] + layer.eps
        alive = (found[f"{name}.std"] > 1e-4) & (wanted[f"{name}.std"] > 1e-4) & (v > 2 * layer.eps)
        assert alive.any()
        means = (found[f"{name}.mean"] - m) / v**0.5, (wanted[f"{name}.mean"] - old_m) / old_v**0.5
        spreads = found[f"{name}.std"] / v**0.5, wanted[f"{name}.std"] / old_v**0.5
        assert np.allclose(means[0][alive], means[1][alive], atol=0.01), name
        assert np.allclose(spreads[0][alive], spreads[1][alive], atol=0.01), name


def test_the_module_is_as_before(bench):
    live = bench.tasks.tasks["bars"].live
    measured(bench.base, shown(bench, "bars"))
    state = live.take(bench.base).state_dict()
    assert all(np.array_equal(state[name].numpy(), bench.base[name]) for name in bench.base.specs if "running" in name)
    assert not live.module.training and {m.momentum for m in normalisations(live.module).values()} == {0.01}
    assert not any(m.training for m in live.module.modules())


def test_the_mean_of_several(bench):
    one, two = {"a": np.float32([1, 2])}, {"a": np.float32([3, 6])}
    assert averaged([one, two])["a"].tolist() == [2, 4]


def test_they_are_measured_on_pictures_alone(bench):
    with pytest.raises(RecipeError, match="measured with tasks of pictures"):
        measured(bench.base, [(object.__new__(NoPictures), [])])


class NoPictures:
    name = "texts"


def test_training_keeps_the_statistics_of_the_base_and_trains_the_rest(bench):
    bench.vector("corners", 7)
    assert "corners_7" in bench.vectors.trained
    state = bench.tasks.tasks["corners"].live.module.state_dict()  # training leaves the module as it is
    for name in bench.base.specs:
        same = np.array_equal(state[name].numpy(), bench.base[name])
        assert same == ("running" in name or "num_batches" in name), name
