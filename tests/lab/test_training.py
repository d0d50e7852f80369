"""Fine-tuning: what changes and what does not, that seeds decide, and how the rate goes."""

from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest

from taskvec.errors import NonFiniteError, RecipeError
from taskvec.evals.texts import read
from taskvec.lab.suite import Recipe
from taskvec.lab.training import chosen, dealt, fine_tune, plan, rate_at

RECIPE = Recipe(["encoder.layer.*.weight"], epochs=1, batch=16, rate=3e-3)


@pytest.fixture
def trained(bench):
    """trained("food", seed=0, ...) -> the training of these tasks, from the base on."""

    def train(*names, seed=0, recipe=RECIPE, **options):
        tasks = [bench.tasks.tasks[name] for name in names]
        tasks[0].live.take(bench.base)
        tasks[0].live.holds = None
        pairs = [(task, [*read(bench.data[name].file("train"))]) for task, name in zip(tasks, names, strict=True)]
        return fine_tune(pairs, recipe, seed, **options)

    yield train
    bench.tasks.tasks["food"].live.take(bench.base)


# ---- what a training gives -----------------------------------------------------------------------------
def test_only_the_named_parameters_change_and_the_changes_are_those_of_the_module(bench, trained):
    module = bench.tasks.tasks["food"].live.module
    made = trained("food")
    assert made.deltas and all(name.startswith("encoder.layer.") for name in made.deltas)
    for name, parameter in module.named_parameters():
        change = parameter.detach().numpy() - bench.base[name]
        assert np.array_equal(change, made.deltas[name]) if name in made.deltas else not change.any(), name
    assert all(delta.dtype == np.float32 and delta.any() for delta in made.deltas.values())


def test_a_seed_trains_the_same_vector_again_and_another_seed_another(trained):
    one, again, other = trained("food"), trained("food"), trained("food", seed=1)
    assert one.losses == again.losses != other.losses
    assert all(np.array_equal(one.deltas[name], again.deltas[name]) for name in one.deltas)


def test_training_makes_the_loss_small_and_ascent_makes_it_large(trained):
    longer = replace(RECIPE, epochs=8)
    down, up = trained("food", recipe=longer).losses, trained("food", recipe=longer, objective="ascent").losses
    assert np.mean(down[-4:]) < 0.7 * down[0] and -np.mean(up[-4:]) > -1.3 * up[0] > 0


def test_the_module_is_left_as_it_was_told_to_be(bench, trained):
    module = bench.tasks.tasks["food"].live.module
    wanted = {name: p.requires_grad for name, p in module.named_parameters()}
    trained("food")
    assert not module.training and wanted == {name: p.requires_grad for name, p in module.named_parameters()}


def test_an_early_vector_is_a_beginning_of_the_whole_training(trained):
    whole, early = trained("food"), trained("food", until=0.5)
    assert early.losses == whole.losses[: len(whole.losses) // 2]
    told = []
    trained("food", until=0.5, progress=lambda done, total: told.append((done, total)))
    assert told == [(k + 1, len(early.losses)) for k in range(len(early.losses))]


def test_training_in_16_bits_gives_nearly_the_same_first_loss_and_float32_changes(trained):
    whole, half = trained("food"), trained("food", recipe=replace(RECIPE, autocast="bfloat16"))
    assert half.losses[0] == pytest.approx(whole.losses[0], rel=0.05) and half.losses != whole.losses
    assert all(delta.dtype == np.float32 and delta.any() for delta in half.deltas.values())


def test_several_tasks_are_trained_together(trained):
    recipe = replace(RECIPE, batch=32)
    alone, joint = trained("food", recipe=recipe), trained("food", "home", recipe=recipe)
    assert len(joint.losses) == 2 * len(alone.losses)


# ---- the plan of the batches ----------------------------------------------------------------------------
@pytest.mark.parametrize(("count", "batch", "epochs"), [(10, 3, 2), (12, 4, 3), (5, 8, 2), (1, 1, 1)])
def test_every_epoch_has_every_example_once_in_an_order_of_its_own(count, batch, epochs):
    batches = plan(count, Recipe(["*"], epochs=epochs, batch=batch), seed=0)
    each = len(batches) // epochs
    orders = [[*chain(*batches[k * each : (k + 1) * each])] for k in range(epochs)]
    assert all(sorted(order) == [*range(count)] for order in orders)
    assert count < 3 or orders[0] != orders[1]


def test_steps_count_instead_of_epochs():
    batches = plan(10, Recipe(["*"], steps=7, batch=4), seed=0)
    assert len(batches) == 7 and batches[:3] == plan(10, Recipe(["*"], epochs=1, batch=4), seed=0)
    assert plan(10, Recipe(["*"]), seed=0) != plan(10, Recipe(["*"]), seed=1)


def test_a_batch_is_dealt_to_the_tasks_that_its_examples_are_of():
    assert dealt([0, 5, 2, 7, 9], [3, 4, 3]) == [[0, 2], [2], [0, 2]]
    assert dealt([1], [3, 4]) == [[1], []]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_rises_over_the_warm_up_and_falls_towards_0(schedule):
    recipe = Recipe(["*"], warm_up=0.1, schedule=schedule)
    rates = [rate_at(step, 100, recipe) for step in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)]) and rates[10] == 1
    assert all(a > b > 0 for a, b in pairwise(rates[10:])) and rates[-1] < 0.02
    middle = 10 + 45
    assert rates[middle] == pytest.approx(0.5)


def test_a_training_of_one_step_has_the_whole_rate():
    assert rate_at(0, 1, Recipe(["*"])) == 1


# ---- what is refused ------------------------------------------------------------------------------------
def test_patterns_that_fit_no_parameter_are_all_told(bench):
    module = bench.tasks.tasks["food"].live.module
    with pytest.raises(RecipeError, match=r"fit no parameter of the model:\n  - layers\.\*\n  - zzz"):
        chosen(module, ["encoder.*", "layers.*", "zzz"])
    assert chosen(module, ["pooler.*"]).keys() == {"pooler.dense.weight", "pooler.dense.bias"}


def test_a_loss_that_is_not_finite_is_told_with_its_step_and_the_module_can_be_used_again(bench, trained):
    with pytest.raises(NonFiniteError, match=r"step \d+ of the training: the loss is nan; take a lower rate"):
        trained("food", recipe=replace(RECIPE, rate=1e30, clip=1e30, epochs=4))
    module = bench.tasks.tasks["food"].live.module
    assert not module.training and max(p.abs().max() for p in module.encoder.parameters()) > 1e20
    assert np.isfinite(trained("food").losses).all()


def test_a_module_that_holds_other_weights_is_not_trained(bench):
    task = bench.tasks.tasks["food"]
    task.live.take(bench.base + bench.vector("food", 0))
    with pytest.raises(RecipeError, match="must hold the base when a training begins"):
        fine_tune([(task, [])], RECIPE, 0)


def test_tasks_of_two_modules_are_not_trained_together(bench, finished, tmp_path):
    from taskvec.lab.bench import Bench

    other = Bench(finished.suite, [0], tmp_path, finished.cache)
    tasks = [(b.tasks.tasks["food"], []) for b in (bench, other)]
    with pytest.raises(RecipeError, match="must share one model"):
        fine_tune(tasks, RECIPE, 0)
