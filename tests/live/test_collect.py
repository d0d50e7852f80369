"""Batches, failures of the user's code, and which layers of a module are linear."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from taskvec.errors import RecipeError, TaskvecError
from taskvec.live.collect import IGNORED, Data, Fisher, Gram, inputs_of, is_transposed, linear_layers, users_code

X = torch.arange(24, dtype=torch.float32).reshape(6, 4)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x)


# ---- batches ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("most", "sizes"), [(None, [2, 3, 1]), (6, [2, 3, 1]), (7, [2, 3, 1]), (5, [2, 3]), (4, [2, 2]), (1, [1])]
)
def test_batches_are_cut_where_enough_examples_were_seen(most, sizes):
    read = []

    def batches() -> Iterator[dict]:
        for first, last in ((0, 2), (2, 5), (5, 6)):
            read.append(first)
            yield {"x": X[first:last], "note": "kept"}

    pieces = [*Data(nn.Identity(), batches()).pieces(most)]
    assert [size for _, size in pieces] == [len(batch["x"]) for batch, _ in pieces] == sizes
    assert torch.equal(torch.cat([batch["x"] for batch, _ in pieces]), X[: sum(sizes)])
    assert len(read) == len(sizes) and all(batch["note"] == "kept" for batch, _ in pieces)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (X, "batch 2 is a Tensor, not a dict of what the module is called with"),
        ({"x": X, "y": X[:2]}, r"batch 2 must have the examples along their first dimension: .'x': 6, 'y': 2"),
        ({"x": X, "t": torch.tensor(1)}, "'t': 0"), ({"note": "no tensor"}, r"first dimension: {}"),
    ],
)  # fmt: skip
def test_a_batch_that_is_none_is_named_by_its_number(batch, says):
    with pytest.raises(TaskvecError, match=says):
        [*Data(nn.Identity(), [{"x": X}, batch]).pieces(None)]


def test_the_module_is_called_with_all_but_the_targets():
    batch = {"x": X, "targets": X[:, 0]}
    module = Named()
    assert torch.equal(Data(module, []).run(batch), module(X))
    own = Data(module, [], lambda module, inputs: (module, [*inputs]))
    assert own.run(batch) == (module, ["x"])

    class Output:
        logits = "these"

    assert Data(lambda x: Output(), []).run(batch) == "these"


# ---- failures --------------------------------------------------------------------------------------------
def test_whatever_the_users_code_raises_is_stated_in_one_line():
    for error, said in (
        (ValueError("  first\nsecond"), "f failed: ValueError: first"),
        (KeyError(), "f failed: KeyError: "),
    ):
        with pytest.raises(TaskvecError) as told, users_code("f"):
            raise error
        assert str(told.value) == said and told.value.__cause__ is error
    with pytest.raises(RecipeError, match="ours"), users_code("f"):
        raise RecipeError("ours")
    with pytest.raises(KeyboardInterrupt), users_code("f"):
        raise KeyboardInterrupt


# ---- what is collected -----------------------------------------------------------------------------------
def test_linear_layers_are_known_by_the_names_of_their_weights():
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.ModuleDict({"c": Conv1D(2, 3)}), nn.Conv2d(1, 1, 1))
    layers = linear_layers(module)
    assert layers == {"0.weight": module[0], "2.c.weight": module[2]["c"]}
    assert [inputs_of(layer) for layer in layers.values()] == [4, 3]
    assert [is_transposed(layer) for layer in layers.values()] == [False, True]
    alone = nn.Linear(2, 2)
    assert linear_layers(alone) == {"weight": alone}


def collected(kind, batches, **options):
    module = Named()
    data = Data(module, batches)
    parameters = dict(module.named_parameters())
    what = Gram(data, linear_layers(module)) if kind == "gram" else Fisher(data, parameters, seed=0, **options)
    for batch, size in data.pieces(None):
        what.see(batch, size)
    what.close()
    assert not module.linear._forward_pre_hooks
    return what.results(sum(len(b["x"]) for b in batches)), module


def test_rows_that_the_mask_hides_do_not_count():
    x = X.reshape(2, 3, 4)
    mask = torch.tensor([[1, 0, 2], [0, 0, 1]])
    module = Named()
    data = Data(module, [], lambda m, b: m(b["x"]))
    gram = Gram(data, linear_layers(module))
    gram.see({"x": x, "attention_mask": mask}, 2)
    arrays, unreached = gram.results(2)
    kept = X[[0, 2, 5]].double().numpy()
    assert np.array_equal(arrays["linear.weight"], kept.T @ kept) and unreached == []
    with pytest.raises(TaskvecError, match=r"attention_mask must be a tensor \(examples, positions\)"):
        gram.see({"x": x, "attention_mask": torch.ones(2)}, 2)


def test_what_no_example_reaches_is_named():
    (arrays, unreached), _ = collected("gram", [{"x": X[:0]}])
    assert arrays == {} and unreached == ["linear.weight"]


def test_targets_that_are_ignored_give_no_gradient():
    y = torch.tensor([0, IGNORED, 2, 1, IGNORED, 1])
    (arrays, unreached), module = collected("fisher", [{"x": X, "targets": y}], labels="given")
    p = torch.softmax(module(X), -1).detach()
    wanted = torch.zeros(3)
    for k in (0, 2, 3, 5):
        wanted += (torch.nn.functional.one_hot(y[k], 3) - p[k]) ** 2 / 6
    np.testing.assert_allclose(arrays["linear.bias"], wanted, rtol=1e-4, atol=1e-8)
    assert unreached == []


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (torch.tensor([3]), r"targets must lie in 0 .. 2, or be -100"), (torch.tensor([-1]), "must lie in"),
        (torch.tensor([[1]]), r"targets are \[1, 1\], where the logits are \[1, 3\]: one class each"),
        ("yes", "targets are str"), (None, "labels=\"given\" needs 'targets' in every batch"),
    ],
)  # fmt: skip
def test_targets_are_one_class_for_each_row_of_the_logits(targets, says):
    module = Named()
    fisher = Fisher(Data(module, []), dict(module.named_parameters()), "given", 0)
    with pytest.raises(TaskvecError, match=says):
        fisher.see({"x": X[:1]} | ({} if targets is None else {"targets": targets}), 1)


def test_an_example_whose_only_target_does_not_count_adds_nothing():
    batches = [{"x": X[:2], "targets": torch.tensor([1, IGNORED])}, {"x": X[2:3], "targets": torch.tensor([0])}]
    module = Named()
    for labels in ("exact", "given"):
        fishers = [Fisher(Data(module, []), dict(module.named_parameters()), labels, 0) for _ in range(2)]
        for batch in batches:
            fishers[0].see(batch, len(batch["x"]))
        for k in (0, 2):
            fishers[1].see({"x": X[k : k + 1], "targets": torch.tensor([1 - k // 2])}, 1)
        one, two = (fisher.results(2)[0] for fisher in fishers)
        assert all(np.array_equal(one[n], two[n]) for n in one) and one["linear.weight"].any()
