"""Git Re-Basin on networks that are really trained: the same function in another order, and a lower barrier between."""

import json

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FormatError, MassError, MismatchError, NonFiniteError, OutputError, RecipeError
from taskvec.families import SHIPPED, symmetry_of
from taskvec.permuted import in_memory
from taskvec.symmetries import Group, groups, stack

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")


# ---- models ------------------------------------------------------------------------------------------
class Stack(torch.nn.Module):
    """A plain stack of linear layers: fc1, fc2, fc3."""

    def __init__(self, *sizes):
        super().__init__()
        for k, (into, out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            setattr(self, f"fc{k + 1}", torch.nn.Linear(into, out))

    def forward(self, x):
        *hidden, last = self.children()
        for layer in hidden:
            x = torch.relu(layer(x))
        return last(x)


def tiny(family, seed):
    """A transformer of two blocks as transformers builds it, and the sizes that the tests need."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    common = {"vocab_size": 40, "attn_implementation": "eager"}
    if family in ("llama", "qwen3"):
        config = transformers.AutoConfig.for_model(
            family, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, attention_bias=True, **common,
        )  # fmt: skip
        return transformers.AutoModelForCausalLM.from_config(config)
    if family == "bert":
        config = transformers.BertConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, **common
        )
        return transformers.BertForMaskedLM(config)
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **common)
    return transformers.GPT2LMHeadModel(config)


FAMILIES = ("llama", "qwen3", "bert", "gpt2")
HEADS = {"llama": 2, "qwen3": 2, "bert": 4, "gpt2": 4}


def weights_of(module, name):
    """The parameters of a module as Weights; of tied ones the first name, as safetensors keeps them."""
    return tv.from_arrays({n: p.detach().numpy().copy() for n, p in module.named_parameters()}, name)


def randomised(module, seed):
    """Every parameter random, also norms and biases, so that nothing is equal by construction."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
    return module.eval()


def drawn(found, seed):
    """A random order of every group's units, as `permute` takes it."""
    rng = np.random.default_rng(seed)
    return in_memory(found, {name: rng.permutation(group.units) for name, group in found.items()})


def equal(one, two):
    assert one.keys() == two.keys()
    return all(np.array_equal(one[n].view(np.uint32), two[n].view(np.uint32)) for n in one)


# ---- the same function -------------------------------------------------------------------------------
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_permuted_transformer_computes_the_same_and_is_found_back_to_the_bit(family, residual):
    module = randomised(tiny(family, 0), 1)
    model, tokens = weights_of(module, "m"), torch.randint(0, 40, (3, 11))
    found = groups(symmetry_of(model.specs), model.specs, {}, HEADS[family], residual)
    moved = tv.permute(model, drawn(found, 2))
    with torch.no_grad():
        before = module(tokens).logits
        tv.load_into(module, moved)
        after = module(tokens).logits
    assert before.std() > 0.1 and not equal(model, moved)
    torch.testing.assert_close(after, before, rtol=2e-4, atol=2e-4 * before.std().item())
    back = tv.match(model, moved, heads=HEADS[family], residual=residual)
    assert back.settled and back.after == pytest.approx(1) and back.before < 0.9
    assert equal(tv.permute(moved, back.permutations), model)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_shipped_rule_moves_something_that_matters(family):
    """Permuted in one of a group's tensors alone, the network is another: the tables name no idle axis."""
    module = randomised(tiny(family, 0), 1)
    model, tokens = weights_of(module, "m"), torch.randint(0, 40, (2, 7))
    found = groups(symmetry_of(model.specs), model.specs, {}, HEADS[family], True)
    with torch.no_grad():
        before = module(tokens).logits
        for name, group in found.items():
            for axis in group.axes if "1" in name or name == "residual" else ():
                if "key.bias" in axis[0] or "k_proj.bias" in axis[0]:
                    continue  # a bias of keys shifts all scores of a query alike; softmax does not see it
                alone = {name: Group(group.units, (axis,))}
                tv.load_into(module, tv.permute(model, drawn(alone, 3)))
                assert not torch.allclose(module(tokens).logits, before, rtol=1e-3, atol=1e-3), axis


def test_a_permuted_stack_computes_the_same_and_is_found_back_to_the_bit():
    module = randomised(Stack(20, 32, 24, 32, 5), 0)
    model, x = weights_of(module, "m"), torch.randn(50, 20)
    rules = stack(model.specs)
    found = groups(rules, model.specs, {}, None, False)
    assert {name: group.units for name, group in found.items()} == {"fc1": 32, "fc2": 24, "fc3": 32}
    moved = tv.permute(model, drawn(found, 1))
    before = module(x)
    tv.load_into(module, moved)
    torch.testing.assert_close(module(x), before, rtol=1e-4, atol=1e-5)
    back = tv.match(model, moved)
    assert equal(tv.permute(moved, back.permutations), model)
    assert back.uncovered == ("fc4.bias",) and back.symmetry == "stack"


# ---- against eager lines of the paper -----------------------------------------------------------------
def eager_weight_matching(a, b, seed):
    """Algorithm 1 of the paper for fc1, fc2, fc3: sweeps in a random order, until none gains."""
    from scipy.optimize import linear_sum_assignment

    a, b = ({k: v.astype(np.float64) for k, v in m.items()} for m in (a, b))
    p = {0: np.arange(a["fc1.weight"].shape[0]), 1: np.arange(a["fc2.weight"].shape[0])}
    rng = np.random.default_rng(seed)
    for _ in range(100):
        gained = False
        for k in rng.permutation(2):
            one, two = f"fc{k + 1}", f"fc{k + 2}"
            left = b[f"{one}.weight"] if k == 0 else b[f"{one}.weight"][:, p[0]]
            right = b[f"{two}.weight"] if k == 1 else b[f"{two}.weight"][p[1]]
            gram = a[f"{one}.weight"] @ left.T + np.outer(a[f"{one}.bias"], b[f"{one}.bias"])
            gram += a[f"{two}.weight"].T @ right
            new = linear_sum_assignment(gram, maximize=True)[1]
            rows = np.arange(new.size)
            if gram[rows, new].sum() > gram[rows, p[k]].sum() + 1e-9:
                p[k], gained = new, True
        if not gained:
            return p
    raise AssertionError("no end")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_match_is_the_paper_s_algorithm(seed):
    models = [weights_of(randomised(Stack(6, 15, 12, 4), s), f"m{s}") for s in (1, 2)]
    found = tv.match(*models, seed=seed)
    wanted = eager_weight_matching(*({n: m[n] for n in m} for m in models), seed)
    assert found.permutations["fc1"].tolist() == wanted[0].tolist()
    assert found.permutations["fc2"].tolist() == wanted[1].tolist()
    assert found.after > found.before and found.settled


def test_slabs_and_parts_of_the_sum_change_no_order(monkeypatch):
    from taskvec import alignment

    models = [weights_of(randomised(tiny("llama", s), s), f"m{s}") for s in (1, 2)]
    wanted = tv.match(*models, heads=2, residual=True)
    monkeypatch.setattr(alignment, "SLAB", 100)
    monkeypatch.setattr(alignment, "WIDTH", 333)
    found = tv.match(*models, heads=2, residual=True)
    assert all(np.array_equal(found.permutations[n], wanted.permutations[n]) for n in wanted.permutations)


# ---- the barrier ----------------------------------------------------------------------------------------
def teacher():
    """Ten classes by a random network of two layers, 20 inputs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 20, generator=generator)
    hidden = torch.tanh(x @ torch.randn(20, 30, generator=generator) / 2)
    return x, (hidden @ torch.randn(30, 10, generator=generator)).argmax(1)


def digits():
    """The 1797 handwritten digits of scikit-learn, 8 x 8."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def trained(module, x, y, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(module.parameters(), 3e-3, weight_decay=1e-4)
    for _ in range(steps):
        batch = torch.randint(0, len(x), (128,), generator=generator)
        adam.zero_grad()
        torch.nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
        adam.step()
    return module.eval()


def barrier(module, a, b, x, y):
    """max over t of loss((1-t) a + t b) - ((1-t) loss(a) + t loss(b)), section 2 of the paper."""
    losses = []
    with torch.no_grad():
        for k in range(11):
            t = k / 10
            tv.load_into(module, (1 - t) * a + t * b)
            losses.append(torch.nn.functional.cross_entropy(module(x), y).item())
    return max(loss - ((10 - k) * losses[0] + k * losses[-1]) / 10 for k, loss in enumerate(losses))


@pytest.mark.parametrize("data", [teacher, digits])
def test_the_barrier_between_two_trained_networks_falls_by_half(data):
    x, y = data()
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(weights_of(trained(Stack(x.shape[1], 128, 128, 10), x, y, 500, seed), f"m{seed}"))
    found = tv.match(*models)
    moved = tv.permute(models[1], found.permutations)
    module = Stack(x.shape[1], 128, 128, 10)
    before, after = (barrier(module, models[0], other, x, y) for other in (models[1], moved))
    assert before > 0.2 and after < before / 2, (before, after)


def test_the_barrier_between_two_trained_transformers_falls():
    """Two llamas of two blocks that learn to copy what stood three tokens before; the residual stream is matched too."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 40, (600, 16), generator=generator)
    y = x[:, :-3].reshape(-1)

    def outputs(module):
        forward = module.forward
        return lambda tokens: forward(tokens).logits[:, 3:].reshape(-1, 40)

    models = []
    for seed in (0, 1):
        module = tiny("llama", seed)
        adam, read = torch.optim.Adam(module.parameters(), 3e-3), outputs(module)
        batches = torch.Generator().manual_seed(seed)
        for _ in range(400):
            batch = torch.randint(0, len(x), (64,), generator=batches)
            adam.zero_grad()
            torch.nn.functional.cross_entropy(read(x[batch]), x[batch, :-3].reshape(-1)).backward()
            adam.step()
        models.append(weights_of(module.eval(), f"m{seed}"))
    module = tiny("llama", 0).eval()
    found = tv.match(*models, heads=2, residual=True)
    moved = tv.permute(models[1], found.permutations)
    module.__dict__["forward_logits"] = outputs(module)

    class Read(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

    def between(other):
        losses = []
        with torch.no_grad():
            for k in range(11):
                tv.load_into(module, (1 - k / 10) * models[0] + (k / 10) * other)
                losses.append(torch.nn.functional.cross_entropy(outputs(module)(x), y).item())
        return max(v - ((10 - k) * losses[0] + k * losses[-1]) / 10 for k, v in enumerate(losses)), losses

    before, after = between(models[1]), between(moved)
    print(before, after)
    assert after[0] < before[0]
