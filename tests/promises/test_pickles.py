"""A pickle of Weights holds what they are made from: another process opens the files again, which must be the same."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FormatError, SourceChanged
from taskvec.methods import FUNCTIONS
from taskvec.methods.core.lift import Lifted

LAYER = "model.layers.0.mlp.weight"
ELSEWHERE = """
import hashlib, os, pickle, sys
w = pickle.load(sys.stdin.buffer)
tensors = hashlib.sha256(b"".join(w[name].tobytes() for name in w) if not w.knobs else b"").hexdigest()
pickle.dump([w, str(w), dict(w.names()), tensors, os.getpid()], sys.stdout.buffer)
"""


def elsewhere(given, **more):
    """What a second process says of pickled weights, in a folder of its own: what it sends back."""
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], input=given, capture_output=True, check=False, **more)
    if done.returncode:
        raise AssertionError(done.stderr.decode())
    return pickle.loads(done.stdout)


@pytest.fixture
def at(tmp_path, build, monkeypatch):
    for seed, name in enumerate("abc"):
        build.model(tmp_path / name, build.tensors(seed))
    rng = np.random.default_rng(5)
    factors = {f"base_model.model.{LAYER.removesuffix('weight')}lora_{x}.weight": rng.standard_normal(s).astype("f4")
               for x, s in (("A", (2, 4)), ("B", (8, 2)))}  # fmt: skip
    build.lora(tmp_path / "lora", factors)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


RECIPES = [
    "a", "a + 0.4*(b - a) + lam*(c - a)", "a + lora", "a + 0.5*lora - a", "a + layers(0, 1, outside=0.5)*(b - a)",
    "a + ties(b - a, c - a, density=0.3)", "rename(0.5*a + 0.5*b, {'model.*': 'm.*'})", "a + dare(b - a, seed=4)",
    "join(drop(a, '*norm*'), select(b, '*norm*'))", "trim(lora, density=0.5, entries=100)",
    "stack(take_layers(a, 0, 1), take_layers(b, 0, 2))", "slerp(a, b, t=lam)", "elect(b - a, c - a)",
    "a + consensus(b - a, c - a)", "select(a + trim(lora, density=0.3), '*mlp*')", "iso_c(b - a, c - a)",
    "0.5*(a - a + b) + 0.5*b",
]  # fmt: skip


def parsed(recipe):
    """The expression, each model in it by the name of its folder."""
    return tv.parse(recipe, **{name: name for name in re.findall(r"\b(?:a|b|c|lora)\b", recipe)})


@pytest.mark.parametrize("recipe", RECIPES)
def test_another_process_has_equal_weights_with_their_text_and_their_names(at, recipe):
    """Wherever it stands: the paths in the text are relative to the folder of the first."""
    w = parsed(recipe)
    received, text, names, tensors, process = elsewhere(pickle.dumps(w), cwd=at / "elsewhere")
    assert process != os.getpid() and received == w and hash(received) == hash(w) and text == str(w) == str(received)
    assert names == w.names() and received.summed == w.summed and received.knobs == w.knobs
    if not w.knobs:
        assert received.specs == w.specs and all(received[n].tobytes() == w[n].tobytes() for n in w)
        assert elsewhere(pickle.dumps(w))[3] == tensors


def test_every_method_is_the_same_object_again():
    methods = [method for method in FUNCTIONS.values() if isinstance(method, Lifted)]
    assert len(methods) > 20 and all(pickle.loads(pickle.dumps(m)) is m for m in methods)


def test_an_adapter_is_unpickled_in_the_form_that_it_had_beside_its_model(at, build):
    """A model that stores the weight the other way round tells the adapter so: it is another source from then on."""
    shapes = {LAYER: (4, 8), "model.norm.weight": (4,)}
    build.model(at / "turned", build.tensors(8, shapes))
    model, lora = tv.load("turned"), tv.load("lora")
    w = model + lora - model
    assert w.specs[LAYER].shape == (4, 8) and lora.specs[LAYER].shape == (8, 4) and w != lora
    for weights in (w, tv.select(w, LAYER), tv.trim(w, density=0.5)):
        received = elsewhere(pickle.dumps(weights))[0]
        assert received == weights and received.specs == weights.specs
        assert received[LAYER].tobytes() == weights[LAYER].tobytes()


def test_a_method_that_was_told_of_the_model_around_it_still_knows(at):
    """The gradient runs over the layers of the model, of which the adapter names one."""
    placed = parsed("a + trim(layers(1, 0.25)*lora, density=0.5, scope='tensor')").placed
    (source,) = (source for source in placed.terms if not source.mass)
    unpickled = pickle.loads(pickle.dumps(source))
    bytes_before, bytes_after = (bytearray(source.specs[LAYER].nbytes) for _ in range(2))
    source.readinto(LAYER, 0, memoryview(bytes_before))
    unpickled.readinto(LAYER, 0, memoryview(bytes_after))
    assert bytes_before == bytes_after and unpickled.within == source.within and unpickled.within.mass == 1


@pytest.mark.parametrize("recipe", ["b", "a + ties(b - a)", "select(b, '*norm*')"])
def test_an_input_that_has_changed_is_named(at, build, recipe):
    given = pickle.dumps(parsed(recipe))
    build.model(at / "b", build.tensors(9))
    with pytest.raises(SourceChanged, match=r'load\("b"\) is not what it was when it was pickled: its fingerprint was'):
        pickle.loads(given)
    shutil.rmtree(at / "b")
    with pytest.raises(FormatError, match="b does not exist"):
        pickle.loads(given)


def test_a_scale_that_has_changed_is_named_and_so_is_what_is_no_adapter_any_more(at):
    given = pickle.dumps(tv.load("a") + tv.load("lora"))
    config = at / "lora/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 9}))
    with pytest.raises(SourceChanged, match=r'load\("lora"\) is not what it was'):
        pickle.loads(given)
    (at / "lora/adapter_model.safetensors").rename(at / "lora/model.safetensors")
    with pytest.raises((SourceChanged, FormatError), match="lora"):
        pickle.loads(given)


def test_a_tokenizer_that_has_changed_is_named(at):
    for name in "ab":
        vocabulary = {f"{name if k > 7 else 'w'}{k}": k for k in range(10)}
        (at / name / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}}))
    a, b = tv.load("a"), tv.load("b")
    w = tv.align_vocab(a, a, b, embedding="model.embed.weight", head="")
    given = pickle.dumps(w)
    assert elsewhere(given)[0] == w
    (at / "b/tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": {"x": 0}}}))
    with pytest.raises(SourceChanged, match=r"align_vocab\(.*its tokenizers are not what they were"):
        pickle.loads(given)


MINE = """
import numpy as np
import taskvec as tv

@tv.method(local=True)
def halved(x, *, by=2.0):
    return x / np.float32(by)
"""


def test_ones_own_method_goes_along_by_the_name_that_its_module_has_it_under(at, monkeypatch):
    (at / "mine_to_pickle.py").write_text(MINE)
    monkeypatch.syspath_prepend(at)
    import mine_to_pickle

    w = mine_to_pickle.halved(tv.load("b") - tv.load("a"), by=4)
    there = {"env": os.environ | {"PYTHONPATH": os.pathsep.join([str(at), os.environ.get("PYTHONPATH", "")])}}
    received, text, _, _, _ = elsewhere(pickle.dumps(w), **there)
    assert received == w and text == str(w) and received[LAYER].tobytes() == w[LAYER].tobytes()
    (at / "mine_to_pickle.py").write_text(MINE.replace("x /", "x *"))
    with pytest.raises(AssertionError, match=r"RecipeError: the method mine_to_pickle.halved has other code here"):
        elsewhere(pickle.dumps(w), **there)
    (at / "mine_to_pickle.py").unlink()
    with pytest.raises(AssertionError, match=r"RecipeError: the method mine_to_pickle.halved"):
        elsewhere(pickle.dumps(w), **there)


def test_what_cannot_be_sent_says_what_to_send(at):
    @tv.method(local=True)
    def inner(x):
        return x

    arrays = tv.from_arrays({LAYER: np.ones((8, 4), np.float32)}, "mine")
    for w in (arrays, tv.select(arrays, LAYER), arrays + tv.trim(arrays - arrays)):
        with pytest.raises(TypeError, match=r"mine: arrays in memory cannot be pickled, .* send their text"):
            pickle.dumps(w)
    with pytest.raises(TypeError, match=r"the method inner cannot be pickled, for no module has it as .*send the text"):
        pickle.dumps(inner(tv.load("b") - tv.load("a")))
