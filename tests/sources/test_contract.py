"""What every source promises, asked of every kind of source. A new kind joins by one line in KINDS."""

import inspect
import json
import os
import pickle
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec as tv
from taskvec.algebra.derived import prepare
from taskvec.algebra.program import Linear, alone, arranged, evaluate, scratch_bytes
from taskvec.errors import MassError, SourceChanged
from taskvec.formats import open_source
from taskvec.numbers.dtypes import BITS, CODES
from taskvec.sources.abilities import (
    ABILITIES,
    Adapts,
    Composite,
    FromFiles,
    Leaf,
    LooksThrough,
    Lowers,
    Measured,
    OnDisk,
    cost_of,
    folder_of,
    leaves_of,
    metadata_of,
    stored_of,
)
from taskvec.sources.in_memory import ArraySource
from taskvec.sources.source import Source, Spec, fingerprint
from taskvec.views.permuted import STATISTIC

EMBEDDING, HEAD, COUNTER = "model.embed_tokens.weight", "lm_head.weight", "steps"
SHAPES = {EMBEDDING: (10, 4), "model.layers.0.mlp.weight": (8, 4), "model.layers.1.mlp.weight": (8, 4),
          "model.norm.weight": (4,)}  # fmt: skip
LAYER, WRITERS = "model.layers.1.mlp.weight", "*.mlp.weight@1"


@dataclass(frozen=True)
class Kind:
    """How a source is made in a folder, and what it is. base: the model whose fingerprint it has as its `base`."""

    made: object
    mass: int = 1
    partial: bool = False
    base: str = ""
    in_memory: bool = False  # whether it reads arrays, which are other ones each time


def vector(at, *more):
    """Differences from "a" of "b" and others."""
    return [tv.load(at / name) - tv.load(at / "a") for name in ("b", *more)]


def two(at):
    return tv.load(at / "a"), tv.load(at / "b")


def arrays(at, mass=1, **more):
    return tv.from_arrays({"w": np.arange(12, dtype=np.float32), "n": np.arange(3), **more}, "mine", mass)


KINDS = {
    "a checkpoint of one file": Kind(lambda at: tv.load(at / "a/model.safetensors")),
    "a folder of shards": Kind(lambda at: tv.load(at / "shards")),
    "a LoRA": Kind(lambda at: tv.load(at / "lora"), mass=0, partial=True),
    "arrays in memory": Kind(arrays, in_memory=True),
    "a vector in memory": Kind(lambda at: arrays(at, mass=0), mass=0, in_memory=True),
    "a stored task vector": Kind(lambda at: tv.load(at / "tau"), mass=0, base="a"),
    "a stored partial vector": Kind(lambda at: tv.load(at / "partial"), mass=0, partial=True),
    "statistics": Kind(lambda at: tv.load(at / "fisher_a.safetensors"), mass=0, base="a"),
    "rename": Kind(lambda at: tv.rename(tv.load(at / "a"), {LAYER: "other.weight"})),
    "drop": Kind(lambda at: tv.drop(tv.load(at / "a"), "model.layers.*")),
    "select": Kind(lambda at: tv.select(0.5 * tv.load(at / "a") + 0.5 * tv.load(at / "b"), "*.layers.*")),
    "select of a vector": Kind(lambda at: tv.select(vector(at)[0], EMBEDDING, LAYER), mass=0, base="select"),
    "take_layers": Kind(lambda at: tv.take_layers(tv.load(at / "a"), 1, 2)),
    "stack": Kind(lambda at: tv.stack(tv.load(at / "a"), tv.take_layers(tv.load(at / "b"), 0, 1))),
    "join": Kind(lambda at: tv.join(tv.drop(tv.load(at / "a"), LAYER), tv.select(tv.load(at / "b"), LAYER))),
    "untie": Kind(lambda at: tv.untie(tv.load(at / "a"))),
    "tie": Kind(lambda at: tv.tie(tv.untie(tv.load(at / "a")))),
    "resize_vocab": Kind(lambda at: tv.resize_vocab(tv.load(at / "a"), 13)),
    "resize_vocab by the mean": Kind(lambda at: tv.resize_vocab(tv.load(at / "a"), 13, fill="mean")),
    "align_vocab": Kind(lambda at: tv.align_vocab(tv.load(at / "a"), *two(at))),
    "permute": Kind(lambda at: tv.permute(tv.load(at / "a"), tv.load(at / "order.safetensors"))),
    "as_model": Kind(lambda at: tv.as_model(1.1 * tv.load(at / "a"))),
    "an elementwise method": Kind(lambda at: tv.magmax(*vector(at, "c")), mass=0, base="a"),
    "an election": Kind(lambda at: tv.elect(*vector(at, "c")), mass=0, base="a"),
    "a method of two, in their order": Kind(lambda at: tv.nearswap(*two(at), t=0.5)),
    "a method that draws": Kind(lambda at: tv.dare(*vector(at), drop=0.5, seed=3), mass=0, base="a"),
    "a method with thresholds": Kind(lambda at: tv.trim(*vector(at), density=0.3), mass=0, base="a"),
    "a method by rows": Kind(lambda at: tv.della(*vector(at), density=0.5, epsilon=0.1), mass=0, base="a"),
    "a whole-tensor method": Kind(lambda at: tv.iso_c(*vector(at, "c")), mass=0, base="a"),
    "a Gram method": Kind(lambda at: tv.slerp(*two(at), t=0.3)),
    "a method of LoRAs": Kind(lambda at: tv.magmax(*map(tv.load, [at / "lora", at / "partial"])), mass=0, partial=True),
    "a method of a method": Kind(lambda at: tv.magmax(tv.trim(*vector(at)), *vector(at)), mass=0, base="a"),
    "a method with statistics": Kind(lambda at: tv.fisher(*two(at), *map(tv.load, sorted(at.glob("fisher_*"))))),
    "ablate": Kind(lambda at: tv.ablate(tv.load(at / "a"), tv.load(at / "direction.safetensors"), patterns=WRITERS)),
}  # fmt: skip
EVERY = pytest.mark.parametrize("kind", KINDS)


def files(at, build):
    """Every file that a kind needs."""
    for seed, name in enumerate("abc"):
        content = build.tensors(seed, SHAPES) | {COUNTER: np.arange(5)}
        build.model(at / name, content | {"half": np.linspace(-1, 1, 7).astype(np.float16)})
        vocabulary = {f"{name if k > 6 else 'w'}{k}": k for k in range(10)}
        (at / name / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}}))
    build.model(at / "shards", build.tensors(0, SHAPES) | {COUNTER: np.arange(5)}, shards=3)
    rng = np.random.default_rng(7)
    factors = {f"base_model.model.{LAYER.removesuffix('weight')}lora_{x}.weight": rng.standard_normal(s).astype("f4")
               for x, s in (("A", (2, 4)), ("B", (8, 2)))}  # fmt: skip
    build.lora(at / "lora", factors)
    for name in "ab":
        (its,) = tv.load(at / name).terms
        about = {"taskvec.statistic": "fisher", "taskvec.base": its.fingerprint}
        squares = {n: np.abs(x) for n, x in build.tensors(3, SHAPES).items()}
        save_file(squares, at / f"fisher_{name}.safetensors", metadata=about)
    save_file({"direction": rng.standard_normal(4).astype("f4")}, at / "direction.safetensors")
    axes = {"taskvec.axes": json.dumps({"units": [[LAYER, 0, 1]]}), STATISTIC: "permutation", "taskvec.mass": "0"}
    save_file({"units": rng.permutation(8)}, at / "order.safetensors", metadata=axes)
    tv.save(tv.load(at / "b") - tv.load(at / "a"), at / "tau")
    tv.save(0.5 * tv.load(at / "lora"), at / "partial")
    return at


@pytest.fixture(scope="module")
def at(tmp_path_factory, build):
    return files(tmp_path_factory.mktemp("sources"), build)


def source_of(kind, at):
    ((source, coefficient),) = KINDS[kind].made(at).terms.items()
    assert coefficient == 1
    return source


def read(source, name, start=0, count=None):
    spec = source.specs[name]
    out = bytearray((spec.numel - start if count is None else count) * BITS[spec.dtype] // 8)
    source.readinto(name, start, memoryview(out))
    return bytes(out)


def everything(source):
    return {name: read(source, name) for name in source.specs}


def ranges(source, seed=0):
    """(tensor, start, count): the ends, one element, and some in between."""
    draw = random.Random(seed)
    for name, spec in source.specs.items():
        n = spec.numel
        yield from [(name, 0, n), (name, 0, 1), (name, n - 1, 1), (name, 1, n - 1), (name, 0, 0)]
        for _ in range(6):
            start = draw.randrange(n)
            yield name, start, draw.randint(1, n - start)


# ---- what every source has ------------------------------------------------------------------------
@EVERY
def test_it_says_what_it_is_before_anything_is_read(kind, at):
    source, expected = source_of(kind, at), KINDS[kind]
    assert source.specs and all(isinstance(s, Spec) and s.dtype in BITS for s in source.specs.values())
    assert source.mass == expected.mass and source.partial is expected.partial and isinstance(source, Source)
    assert expected.mass or not (source.mass and source.partial)
    bases = {"": None, "select": source_of("select of a vector", at).base}
    assert source.base == (bases[expected.base] if expected.base in bases else source_of_base(at, expected.base))
    assert source.stamp() == source.stamp() and source.stamp()
    source.require_unchanged()
    assert len(source.fingerprint) == 64 and source.fingerprint == source_of(kind, at).fingerprint
    for f in (folder_of, metadata_of, cost_of, stored_of, leaves_of):
        f(source)
    stored = stored_of(source)
    assert all(stored[name].shape == spec.shape for name, spec in source.specs.items())


def source_of_base(at, name):
    (base,) = tv.load(at / name).terms
    return base.fingerprint


@EVERY
def test_its_fingerprint_is_that_of_what_it_holds_or_of_the_call(kind, at):
    source = source_of(kind, at)
    if isinstance(source, Leaf) and not isinstance(source, Adapts):
        assert source.fingerprint == fingerprint(source.specs, source.readinto)


def test_sources_that_are_not_equal_have_other_fingerprints_or_the_same_tensors(at):
    every = {kind: source_of(kind, at) for kind in KINDS}
    for one, other in combinations(every, 2):
        a, b = every[one], every[other]
        assert a != b and (a.fingerprint != b.fingerprint or alike(a, b)), (one, other)


def alike(a, b):
    """Whether two sources hold the same numbers, in whatever dtype they are computed."""
    return a.specs.keys() == b.specs.keys() and all(
        np.array_equal(numbers(a, name), numbers(b, name)) for name, spec in a.specs.items() if spec.dtype in CODES
    )


@EVERY
def test_equal_sources_hash_alike_and_hold_equal_tensors(kind, at):
    one, two = source_of(kind, at), source_of(kind, at)
    assert everything(one) == everything(two) and one.text == two.text and (one == two) is not KINDS[kind].in_memory
    assert one == one and (one != two or hash(one) == hash(two)) and len({one, two}) == 1 + KINDS[kind].in_memory
    assert (one == two) == (one.stamp() == two.stamp()) or KINDS[kind].in_memory


@EVERY
def test_its_text_parses_back_to_an_equal_source(kind, at):
    w = KINDS[kind].made(at)
    given = {name: tv.Weights({s: 1}) for s, name in w.names().items() if not isinstance(s, FromFiles)}
    parsed = tv.parse(w.text(), **given)
    assert parsed == w and parsed.text() == w.text()
    if not isinstance(source_of(kind, at), Composite):
        assert w.text() == source_of(kind, at).text


# ---- its numbers ----------------------------------------------------------------------------------
@EVERY
def test_any_range_is_that_of_the_whole(kind, at):
    source = source_of(kind, at)
    whole = everything(source_of(kind, at))
    for name, start, count in ranges(source):
        size = BITS[source.specs[name].dtype] // 8
        assert read(source, name, start, count) == whole[name][start * size : (start + count) * size], (name, start)


@EVERY
def test_several_threads_read_what_one_reads(kind, at):
    source, asked = source_of(kind, at), [*ranges(source_of(kind, at), seed=1)] * 3
    whole = everything(source_of(kind, at))
    with ThreadPoolExecutor(8) as pool:
        pieces = pool.map(lambda one: read(source, *one), asked)
    for (name, start, count), piece in zip(asked, pieces, strict=True):
        size = BITS[source.specs[name].dtype] // 8
        assert piece == whole[name][start * size : (start + count) * size]


def numbers(source, name):
    """A tensor as the kernel takes it: in float32, or in float64 if it is stored so."""
    spec, kinds = source.specs[name], {"F16": "f2", "F32": "f4", "F64": "f8"}
    return np.frombuffer(read(source, name), kinds[spec.dtype]).astype("f8" if spec.dtype == "F64" else "f4")


def in_a_program(linear, n):
    """A sum as programs compute it, in float32."""
    out = np.empty(n, np.float32)
    evaluate(linear, 0, n, "F32", out, memoryview(bytearray(scratch_bytes(linear.parts, n))))
    return out


@EVERY
def test_in_a_program_it_has_the_bits_that_it_is_read_with(kind, at):
    """Whether the kernel reads it from its file, or it is lowered to operations, or it fills memory."""
    source = source_of(kind, at)
    beside = np.linspace(0, 1, 64, dtype="f4")
    other = ArraySource("one", {"x": beside}, {"x": Spec((64,), "F32")}, 0)
    for name, spec in source.specs.items():
        if spec.dtype not in CODES or spec.dtype == "F64":
            continue
        expected = numbers(source_of(kind, at), name)
        assert in_a_program(alone(source, name), spec.numel).tobytes() == (expected + np.float32(0)).tobytes()
        summed = in_a_program(Linear(((source, name, 1.0), (other, "x", 0.5))), spec.numel)
        assert summed.tobytes() == (expected + np.float32(0.5) * beside[: spec.numel]).tobytes()
        assert scratch_bytes([(source, name)], spec.numel, 0) > 0


@EVERY
def test_what_lies_in_a_file_is_there_as_it_is_read(kind, at):
    source = source_of(kind, at)
    for name, start, count in ranges(source) if isinstance(source, OnDisk) else ():
        fd, offset = source.segment(name, start)
        size = count * BITS[source.specs[name].dtype] // 8
        assert os.pread(fd, size, offset) == read(source, name, start, count)


@EVERY
def test_what_is_looked_through_is_the_sum_that_it_is(kind, at):
    source = source_of(kind, at)
    for name, spec in source.specs.items() if isinstance(source, LooksThrough) else ():
        parts = source.origin(name)
        assert all(part[1] in part[0].specs for part in parts)
        if spec.dtype in CODES:
            expected = numbers(source_of(kind, at), name).astype("f4")
            assert in_a_program(arranged(parts), spec.numel).tobytes() == expected.tobytes(), name


@EVERY
def test_what_is_lowered_is_what_the_bare_function_makes(kind, at):
    source = source_of(kind, at)
    prepare([tv.Weights({source: 1})], 1)
    for name, spec in source.specs.items() if isinstance(source, Lowers) and source.lowers else ():
        arrays = [in_a_program(linear, spec.numel) for linear in source.sums(name)]
        expected = source.tile(name, 0, arrays, source._told_of(name))
        assert in_a_program(alone(source, name), spec.numel).tobytes() == expected.tobytes(), name


@EVERY
def test_what_is_lowered_needs_the_memory_that_it_names(kind, at):
    source = source_of(kind, at)
    prepare([tv.Weights({source: 1})], 1)
    for name in source.specs if isinstance(source, Lowers) else ():
        assert (source.lowered_bytes(name, 100) is None) == (source.lowered_bytes(name, 1) is None)


# ---- its abilities --------------------------------------------------------------------------------
@EVERY
def test_it_has_every_member_of_the_abilities_that_it_states(kind, at):
    source = source_of(kind, at)
    stated = [ability for ability in ABILITIES if isinstance(source, ability)]
    assert isinstance(source, Leaf) != isinstance(source, Composite)
    for ability in stated:
        promised = {*vars(ability), *inspect.get_annotations(ability)}
        for name in sorted(m for m in promised if not m.startswith("_")):
            its = inspect.getattr_static(source, name)
            assert not getattr(getattr(its, "fget", its), "__isabstractmethod__", False), f"{ability} lacks {name}"
            getattr(source, name)


@EVERY
def test_what_is_measured_once_is_known_from_then_on(kind, at):
    source = source_of(kind, at)
    if isinstance(source, Measured):
        assert source.passes >= 0 and source.unmeasured >= 0
        prepare([tv.Weights({source: 1})], 2)
        assert source.unmeasured == 0
        assert everything(source) == everything(source_of(kind, at))


@EVERY
def test_a_call_reads_leaves_and_has_their_names(kind, at):
    source = source_of(kind, at)
    assert all(isinstance(leaf, Leaf) for leaf in leaves_of(source))
    if isinstance(source, Composite):
        assert [*source.leaves] == [*dict.fromkeys(leaf for a in source.args for leaf in a.mentioned)]
        assert source.tensors is None or source.tensors.keys() == source.specs.keys()
        assert source.bind({}) == tv.Weights({source: 1}) and source.placed(None) == source and source.knobs == set()
        assert [*source.unfit()] == [*source.astray()] == []


@EVERY
def test_statistics_are_no_weights(kind, at):
    w = KINDS[kind].made(at)
    if kind == "statistics":
        with pytest.raises(MassError, match="fisher statistics"):
            w.kind()
    else:
        assert w.kind() == KINDS[kind].mass


@EVERY
def test_an_adapter_stays_what_it_is_beside_a_model_that_it_fits(kind, at):
    source, (model,) = source_of(kind, at), tv.load(at / "a").terms
    if isinstance(source, Adapts):
        assert source.fitted(model) == source and not source.objections(model) and not source.remarks(model)


# ---- changed, sent elsewhere ----------------------------------------------------------------------
@EVERY
def test_a_byte_that_changes_is_noticed(kind, at, tmp_path):
    """The stamp is another one even if the bytes are put back, in which the fingerprint can see nothing."""
    shutil.copytree(at, tmp_path / "copy")
    source = source_of(kind, tmp_path / "copy")
    before, _ = source.stamp(), everything(source)
    if KINDS[kind].in_memory:
        next(iter(source._bytes.values()))[0] ^= 1
        with pytest.raises(SourceChanged):
            source.require_unchanged()
        return
    held = {file.path: file.path.read_bytes() for leaf in leaves_of(source) for file in leaf.files.values()}
    for change in (1, 0):
        for path, data in held.items():
            path.write_bytes(data[:-1] + bytes([data[-1] ^ change]))
            os.utime(path, ns=(1, 1))
        with pytest.raises(SourceChanged):
            source.require_unchanged()
    again = source_of(kind, tmp_path / "copy")
    assert again.fingerprint == source.fingerprint and again.stamp() != before and again != source


@EVERY
def test_a_pickle_of_it_is_opened_again_and_one_of_arrays_is_refused(kind, at):
    source = source_of(kind, at)
    if KINDS[kind].in_memory:
        with pytest.raises(TypeError, match="send their text"):
            pickle.dumps(source)
        return
    again = pickle.loads(pickle.dumps(source))
    assert again == source and again.fingerprint == source.fingerprint and everything(again) == everything(source)
    if isinstance(source, FromFiles):
        assert open_source(source.uri, source.revision) == source
