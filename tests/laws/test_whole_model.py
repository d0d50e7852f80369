"""The density of a whole model counts all of its entries, also those that an adapter does not name."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec as tv
from taskvec.errors import RecipeError
from taskvec.notes import collected

SHAPES = {f"model.layers.{k}.{m}.weight": (24, 16) for k in range(3) for m in ("q", "v", "up", "down")}
ENTRIES = 24 * 16 * 12
CALLS = {
    "trim": lambda *v, **k: tv.trim(v[0], density=0.1, **k),
    "trim, as many as are named": lambda *v, **k: tv.trim(v[0], density=0.5, **k),
    "trim, more than are named": lambda *v, **k: tv.trim(v[0], density=0.9, **k),
    "trim, the first of equal ones": lambda *v, **k: tv.trim(v[0], density=0.1, ties="first", **k),
    "breadcrumbs": lambda *v, **k: tv.breadcrumbs(v[0], scope="model", **k),
    "ties": lambda *v: tv.ties(*v),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, two LoRAs on some of its tensors, the models merged with them and the stored differences."""
    home, rng = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    base = {n: (rng.standard_normal(s) * 0.05).astype(np.float32) for n, s in SHAPES.items()}
    save(home / "base", base)
    for k, names in enumerate((("q", "v"), ("q", "up"))):
        factors, merged = {}, dict(base)
        for name in (n for n in SHAPES if n.split(".")[3] in names):
            a, b = (rng.standard_normal(s).astype(np.float32) * np.float32(0.01) for s in ((4, 16), (24, 4)))
            module = f"base_model.model.{name.removesuffix('.weight')}"
            factors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            merged[name] = base[name] + 2 * (b @ a)
        save(home / f"lora{k}", factors, "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(names)}
        (home / f"lora{k}" / "adapter_config.json").write_text(json.dumps(config))
        save(home / f"merged{k}", merged)
        tv.save(tv.load(home / f"merged{k}") - tv.load(home / "base"), home / f"stored{k}.safetensors")
    return home


def save(folder, tensors, name="model.safetensors"):
    folder.mkdir()
    save_file(tensors, folder / name)


def vectors(files, kind):
    base = tv.load(files / "base")
    if kind == "merged":
        return [tv.load(files / f"merged{k}") - base for k in (0, 1)]
    return [tv.load(files / (f"{kind}{k}" + ".safetensors" * (kind == "stored"))) for k in (0, 1)]


@pytest.mark.parametrize("call", CALLS)
def test_a_lora_is_the_merged_model_less_its_base_and_the_stored_difference(files, call, tmp_path):
    base = tv.load(files / "base")
    found = {kind: base + CALLS[call](*vectors(files, kind)) for kind in ("lora", "merged", "stored")}
    for name in SHAPES:
        lora, merged, stored = (found[kind][name] for kind in ("lora", "merged", "stored"))
        assert np.array_equal(merged, stored)
        assert np.abs(lora - merged).max() <= 1e-7  # the merged model was rounded once at the size of its weights
    tv.save(found["lora"], tmp_path / "lora")
    assert all(np.array_equal(tv.load(tmp_path / "lora")[n], found["lora"][n]) for n in SHAPES)


def test_the_recipe_of_what_was_saved_has_the_number(files, tmp_path):
    recipe = f'base + trim(load("{files / "lora0"}"))'
    saved = tv.save(tv.parse(recipe, base=files / "base"), tmp_path / "out")
    assert f"entries={ENTRIES}" in saved.recipe
    again = tv.trim(tv.load(files / "lora0"), entries=ENTRIES)
    assert tv.load(files / "base") + again == tv.parse(recipe, base=files / "base").placed


def test_base_plus_lora_minus_base_says_how_many_there_are(files):
    base, lora = tv.load(files / "base"), tv.load(files / "lora0")
    call = tv.trim(base + lora - base)
    assert call == tv.trim(lora, entries=ENTRIES)
    assert tv.parse(str(call)) == call


def test_an_adapter_alone_does_not_say_how_many_there_are(files, tmp_path):
    lora = tv.load(files / "lora0")
    for call in (tv.trim(lora), tv.ties(lora, tv.load(files / "lora1")), 0.5 * tv.trim(lora) + lora):
        with pytest.raises(tv.TaskvecError, match=r"does not say how many.*entries=.*scope="):
            tv.save(call, tmp_path / "vector")
    assert not list(tmp_path.iterdir())
    tv.save(tv.trim(lora, scope="tensor"), tmp_path / "vector")


def test_fewer_entries_than_the_adapter_has_are_refused(files):
    with pytest.raises(tv.TaskvecError, match=r"entries=5 is less than the 2304"):
        tv.trim(tv.load(files / "lora0"), entries=5).read("model.layers.0.q.weight")


def test_a_measure_of_vectors_knows_the_base_that_it_is_given(files):
    base = tv.load(files / "base")
    of_loras, of_models = (tv.compare([tv.ties(*vectors(files, kind))], base=base) for kind in ("lora", "merged"))
    assert of_loras.whole.norms == pytest.approx(of_models.whole.norms, rel=1e-5)


@pytest.mark.parametrize("view", [lambda w: tv.take_layers(w, 0, 2), lambda w: tv.rename(w, {"model.*": "m.*"})])
def test_what_stands_beside_a_view_says_nothing_of_what_is_in_it(files, view):
    base, lora, stored = (tv.load(files / name) for name in ("base", "lora0", "stored0.safetensors"))
    with pytest.raises(tv.TaskvecError, match="does not say how many"):
        (view(base) + view(tv.trim(lora, density=0.1))).read(next(iter(view(base))))
    told = view(base) + view(tv.trim(base + lora - base, density=0.1))
    wanted = view(base) + view(tv.trim(stored, density=0.1))
    assert all(np.abs(told[name] - wanted[name]).max() <= 1e-7 for name in told)


def test_layers_are_those_of_the_model_and_not_those_that_an_adapter_names(files, tmp_path):
    """A LoRA on the first two of three layers: the second is the middle of the model, not its end."""
    factors = {}
    for k in (0, 1):
        rng = np.random.default_rng(k)
        module = f"base_model.model.model.layers.{k}.q"
        factors[f"{module}.lora_A.weight"] = rng.standard_normal((4, 16)).astype(np.float32)
        factors[f"{module}.lora_B.weight"] = rng.standard_normal((24, 4)).astype(np.float32)
    save(tmp_path / "part", factors, "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q"]}
    (tmp_path / "part" / "adapter_config.json").write_text(json.dumps(config))
    base, part = tv.load(files / "base"), tv.load(tmp_path / "part")
    for call in (lambda v: tv.elect(tv.lines(v), v), lambda v: tv.trim(v, density=tv.layers(0.2, 1), scope="tensor")):
        one, other = base + call(part), base + call(base + part - base)
        assert all(np.array_equal(one[name], other[name]) for name in SHAPES)
        assert one.placed is one.placed.placed


def test_a_filter_that_leaves_nothing_of_an_adapter_is_noted(files):
    base, lora = tv.load(files / "base"), tv.load(files / "lora0")  # which names q and v
    for text in ('only("*.up.*")', 'per({"*.down.*": 1, "*": 0})'):
        with collected() as notes:
            tv.plan(tv.parse(f"base + {text}*lora", base=base, lora=lora))
        (text,) = notes
        assert text.startswith("nothing of load(") and "lora0" in text
    with collected() as notes:
        tv.plan(tv.parse('base + only("*.q.*", "*.up.*")*lora', base=base, lora=lora))
    assert not notes


GRADIENTS = (
    "layers(0, 1)*l", "lines(l)", "per({'*.q.*': layers(0, 1), '*': 1})*l", "layers(0, 1)*magmax(l)",
    "trim(l, density=layers(0.2, 1), scope='tensor')", "magmax(layers(0, 1)*l)",
)  # fmt: skip


@pytest.mark.parametrize("text", GRADIENTS)
def test_an_adapter_alone_does_not_say_how_many_layers_there_are(files, tmp_path, text):
    base, lora = tv.load(files / "base"), tv.load(files / "lora0")
    alone = tv.parse(text, l=lora)
    with pytest.raises(RecipeError, match=r"does not say how many there are.*write base \+ "):
        tv.save(alone, tmp_path / "out")
    with pytest.raises(RecipeError, match="does not say how many there are"):
        alone["model.layers.0.q.weight"]
    beside, told = base + alone - base, tv.parse(text, l=base + lora - base)  # the ways out that the message names
    for name in ("model.layers.1.q.weight", "model.layers.2.v.weight"):
        assert np.array_equal(beside[name], told[name])
    with pytest.raises(RecipeError, match="does not say how many there are"):
        tv.plan(tv.parse(f"b + rename({text}, {{'*': 'x*'}})", b=tv.rename(base, {"*": "x*"}), l=lora))


def test_what_is_the_same_in_all_layers_needs_no_number_of_them(files):
    lora = tv.load(files / "lora0")
    assert np.array_equal((tv.layers(0.5, outside=1) * lora)["model.layers.2.q.weight"],
                          (0.5 * lora)["model.layers.2.q.weight"])  # fmt: skip


def test_the_last_layer_of_an_adapter_is_not_taken_for_that_of_the_model(tmp_path, build):
    """A gradient that ends in 0 leaves something of an adapter of the first layers."""
    build.model(tmp_path / "base", {f"layers.{k}.q.weight": np.ones((4, 4), "f4") for k in range(4)})
    pair = {f"layers.1.q.lora_{f}.weight": np.ones(s, "f4") for f, s in (("A", (1, 4)), ("B", (4, 1)))}
    build.lora(tmp_path / "lora", pair, r=1, lora_alpha=1)
    notes = []
    with collected(notes.append):
        tv.plan(tv.load(tmp_path / "base") + tv.layers(1, 0) * tv.load(tmp_path / "lora"))
    assert not any("nothing of" in text for text in notes)
