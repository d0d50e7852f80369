"""Coefficients by gradient: against finite differences, against eager AdaMerging, and where the best ones are known."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

import taskvec as tv
from taskvec.algebra.coefficients import Coefficient
from taskvec.errors import MismatchError, NonFiniteError, RecipeError
from taskvec.live.learn import _parts, _value
from taskvec.sources.positions import places

torch.manual_seed(0)
NAMES = ["embed.weight", "layers.0.weight", "layers.1.weight", "layers.2.weight"]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Linear(5, 6, bias=False)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6, bias=False) for _ in range(3)])
        self.register_buffer("steps", torch.tensor([3]))

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


def arrays(seed, scale=0.5, like=None):
    rng = np.random.default_rng(seed)
    shapes = {NAMES[0]: (6, 5), **dict.fromkeys(NAMES[1:], (6, 6))}
    arrays = {n: (rng.normal(size=s) * scale).astype(np.float32) for n, s in shapes.items()}
    return {n: like[n] + a for n, a in arrays.items()} if like else arrays


BASE = arrays(0)
STEPS = {"steps": np.array([3])}
MODELS = {name: arrays(k, 0.2, BASE) for k, name in enumerate(("a", "b"), 1)}
base = tv.from_arrays({**BASE, **STEPS}, "base")
a, b = (tv.from_arrays({**m, **STEPS}, n) for n, m in MODELS.items())
X = torch.randn(40, 5)


def loss_to(target):
    def loss(model, step):
        return ((model(X) - target) ** 2).mean()

    return loss


# ---- theta(knobs) --------------------------------------------------------------------------------
numbers = st.floats(-2, 2).map(lambda v: round(v, 3))
leaves = st.one_of(
    numbers.map(Coefficient.of),
    st.sampled_from([tv.knob(n) for n in "xyz"]),
    st.sampled_from([tv.only("layers.*"), tv.without("*.0.*")]),
    st.tuples(numbers, numbers).map(lambda v: tv.layers(v[0], tv.knob("y"), outside=v[1])),
    numbers.map(lambda v: tv.per({"layers.1.*": tv.knob("x"), "layers.*": v, "*": tv.knob("z") * 2})),
)
coefficients = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
        inner.map(lambda c: c / (tv.knob("x") + 5)),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(coefficients, st.tuples(numbers, numbers, numbers))
def test_a_coefficient_is_the_same_number_in_torch(c, at):
    values = dict(zip("xyz", at, strict=True))
    knobs = {n: torch.tensor(v, dtype=torch.float64) for n, v in values.items()}
    for place in places(NAMES).values():
        wanted = float(c.bind(values).at(place))
        assert float(_value(c.reduced(place), knobs)) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_the_model_in_torch_is_the_model_that_is_loaded():
    family = base + tv.layerwise(a - base, "u") + tv.knob("v") * tv.only("layers.*") * (b - base)
    at = {name: 0.1 * k - 0.2 for k, name in enumerate(sorted(family.knobs))}
    module, other = Net(), Net()
    tv.load_into(module, family.bind(**at))
    tv.load_into(other, base)
    tensors = {n: p({k: torch.tensor(v).double() for k, v in at.items()}) for n, p in _parts(family, other).items()}
    assert torch.allclose(torch.func.functional_call(other, tensors, (X,)), module(X), atol=1e-6)


def test_one_shared_knob_needs_two_copies_of_a_tensor_however_many_vectors():
    lam = tv.knob("lam")
    family = base + lam * (a - base) + lam * (b - base)
    for part in _parts(family, Net()).values():
        assert part.directions.shape[0] == 1
    partial = base + lam * tv.only("layers.0.*") * (a - base)
    assert set(_parts(partial, Net())) == {"layers.0.weight"}


# ---- learning ------------------------------------------------------------------------------------
def test_the_best_coefficients_are_found_where_they_are_known():
    target_net, module = Net(), Net()
    tv.load_into(target_net, base + 0.7 * (a - base) + 0.2 * (b - base))
    family = base + tv.knob("u") * (a - base) + tv.knob("v") * (b - base)
    with torch.no_grad():
        target = target_net(X)
    learned = tv.learn(family, module, loss_to(target), steps=300, rate=0.02)
    assert learned.knobs == pytest.approx({"u": 0.7, "v": 0.2}, abs=1e-3)
    assert learned.losses[-1] < 1e-6 < learned.losses[0] and learned.weights == family.bind(**learned.knobs)
    assert torch.allclose(module(X), target, atol=1e-3)  # it holds what was learned
    assert "300 steps" in str(learned) and learned.as_dict()["knobs"] == learned.knobs


def test_a_gradient_is_a_finite_difference():
    family = tv.parse("(base + u*layers(1, v, outside=w)*(a - base) + u*w*(b - base))/(1 + 0*u)", base=base, a=a, b=b)
    at = {"u": 0.5, "v": -0.3, "w": 0.8}
    module, target = Net().double(), torch.randn(40, 6, dtype=torch.float64)
    parts = _parts(family, module)

    def loss(values):
        tensors = {n: p(values) for n, p in parts.items()}
        tensors = {n: t.double() for n, t in tensors.items()}
        return ((torch.func.functional_call(module, tensors, (X.double(),)) - target) ** 2).mean()

    tv.load_into(module, family.bind(**at))
    knobs = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in at.items()}
    grads = torch.autograd.grad(loss(knobs), [*knobs.values()])
    for (name, value), grad in zip(at.items(), grads, strict=True):
        low, high = (
            loss({n: torch.tensor(v + (n == name) * e).double() for n, v in at.items()}) for e in (-1e-2, 1e-2)
        )
        assert float(grad) == pytest.approx(float(high - low) / 2e-2, rel=0.02), (name, value)


def test_adamerging_is_what_an_eager_loop_does():
    heads = {t: torch.randn(3, 6) for t in "ab"}
    inputs = {t: torch.randn(30, 4, 5) for t in "ab"}
    module, names = Net(), NAMES

    def loss(model, step):
        return sum(tv.entropy(model(inputs[t][step % 30]) @ heads[t].T) for t in "ab")

    family = base + tv.layerwise(a - base, "a", by="tensor") + tv.layerwise(b - base, "b", by="tensor")
    learned = tv.learn(family, module, loss, steps=60, rate=0.01)

    lam = torch.full((2, len(names)), 0.3, dtype=torch.float64, requires_grad=True)
    adam, net = torch.optim.Adam([lam], lr=0.01), Net()
    taus = [{n: torch.from_numpy(m[n] - BASE[n]) for n in names} for m in MODELS.values()]
    for step in range(60):
        theta = {
            n: torch.from_numpy(BASE[n]) + sum(lam[t, k].float() * taus[t][n] for t in range(2))
            for k, n in enumerate(names)
        }
        total = 0
        for t in "ab":
            p = torch.softmax(torch.func.functional_call(net, theta, (inputs[t][step % 30],)) @ heads[t].T, -1)
            total = total - (p * p.log()).sum(-1).mean()
        adam.zero_grad()
        total.backward()
        adam.step()
        with torch.no_grad():
            lam.clamp_(0, 1)
    order = {n: k for k, n in enumerate((a - base).specs)}
    for t, task in enumerate("ab"):
        for k, n in enumerate(names):
            assert learned.knobs[f"{task}_{order[n]}"] == pytest.approx(float(lam[t, k].detach()), abs=1e-4)
    again = tv.learn(family, Net(), loss, steps=60, rate=0.01)
    assert again.knobs == learned.knobs and again.losses == learned.losses


def test_a_method_and_a_lora_are_sources_like_others(tmp_path, build):
    build.lora(
        tmp_path / "lora",
        {
            "base_model.model.layers.1.lora_A.weight": np.ones((2, 6), np.float32),
            "base_model.model.layers.1.lora_B.weight": np.full((6, 2), 0.1, np.float32),
        },
    )
    lora = tv.load(tmp_path / "lora")
    family = base + tv.knob("u") * tv.ties(a - base, b - base) + tv.knob("v") * lora
    assert _parts(family, Net())["layers.1.weight"].directions.shape[0] == 2
    target_net = Net()
    tv.load_into(target_net, family.bind(u=0.5, v=0.25))
    with torch.no_grad():
        target = target_net(X)
    learned = tv.learn(family, Net(), loss_to(target), steps=200, rate=0.02)
    assert learned.knobs == pytest.approx({"u": 0.5, "v": 0.25}, abs=5e-3)


def test_tied_parameters_stay_tied():
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    one, two = GPT2LMHeadModel(config).eval(), GPT2LMHeadModel(config).eval()
    ground, tuned = (
        tv.from_arrays({n: p.detach().numpy().copy() for n, p in m.named_parameters()}, f"gpt{k}")
        for k, m in enumerate((one, two))
    )
    ids = torch.randint(0, 20, (4, 12))
    module = copy.deepcopy(one)
    with torch.no_grad():
        target = copy.deepcopy(one)
        tv.load_into(target, ground + 0.6 * (tuned - ground))
        logits = target(ids).logits
    family = ground + tv.knob("lam") * (tuned - ground)
    learned = tv.learn(family, module, lambda m, step: ((m(ids).logits - logits) ** 2).mean(), steps=150, rate=0.02)
    assert learned.knobs["lam"] == pytest.approx(0.6, abs=0.01)
    assert module.lm_head.weight.data_ptr() == module.transformer.wte.weight.data_ptr()


def test_gradients_of_the_module_s_own_are_let_alone():
    module = Net()
    module.embed.weight.requires_grad_(False)
    wanted = {n: p.requires_grad for n, p in module.named_parameters()}
    family = base + tv.knob("u") * (a - base)
    tv.learn(family, module, loss_to(torch.zeros(40, 6)), steps=2)
    with pytest.raises(ZeroDivisionError):
        tv.learn(family, module, lambda m, step: 1 / 0, steps=2)
    assert {n: p.requires_grad for n, p in module.named_parameters()} == wanted
    assert all(p.grad is None for p in module.parameters())


ONE = base + tv.knob("u") * (a - base)
ELSE = tv.from_arrays({"x": np.ones(3, np.float32)}, "else")


@pytest.mark.parametrize(
    ("family", "loss", "error", "what"),
    [
        (base, loss_to(0), RecipeError, "no knobs"),
        (ONE, lambda m, s: torch.tensor(1.0), RecipeError, "must return a scalar that depends"),
        (ONE, lambda m, s: m(X), RecipeError, "must return a scalar"),
        (ONE, lambda m, s: m(X).sum() * float("nan"), NonFiniteError, "step 0: the loss is nan"),
        (ELSE * tv.knob("u") / tv.knob("u"), loss_to(0), MismatchError, "not fit"),
    ],
)
def test_what_cannot_be_learned_is_stated(family, loss, error, what):
    with pytest.raises(error, match=what):
        tv.learn(family, Net(), loss, steps=3)


def test_knobs_within_a_method_are_refused():
    family = tv.parse("base + trim(a - base, density=d)", base=base, a=a)
    with pytest.raises(RecipeError, match="inside a method have no gradient here: d"):
        tv.learn(family, Net(), loss_to(0))


def test_a_compiled_module_learns_as_the_module_does():
    with torch.no_grad():
        plain, target = Net(), Net()
        tv.load_into(target, base + 0.7 * (a - base))
        target = target(X)
    family = base + tv.knob("k") * (a - base)
    compiled = torch.compile(Net(), backend="eager")
    one, two = (tv.learn(family, net, loss_to(target), steps=3, rate=0.1) for net in (plain, compiled))
    assert one.knobs == two.knobs and one.losses == pytest.approx(two.losses) and one.losses[-1] < one.losses[0]
    with pytest.raises(RecipeError, match=r"a DataParallel with other weights: give it module\.module"):
        tv.learn(family, torch.nn.DataParallel(plain), loss_to(target), steps=1)


@pytest.mark.parametrize(
    ("start", "what"), [({}, "k is a knob without a start"), ({"k": 1, "l": 1}, "l has a start and")]
)
def test_a_start_is_of_the_knobs_that_there_are(start, what):
    with pytest.raises(RecipeError, match=what):
        tv.learn(base + tv.knob("k") * (a - base), Net(), loss_to(0), start=start)
