"""The plan: layout, blocks, memory and sizes, from headers alone."""

import json
from dataclasses import replace

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MassError, MismatchError, OutputError, RecipeError, TaskvecError
from taskvec.formats.sink import cost_of_sink
from taskvec.numbers.dtypes import BITS
from taskvec.places.local import PAGE
from taskvec.saving import plan as planning
from taskvec.saving.plan import BLOCKS, PIECE, PROGRAM, parse_size, plan, readable, shard, weights_stem
from taskvec.sources.source import Spec

SHAPES = {"embed": (100, 30), "h.0.w": (60, 50), "h.1.w": (60, 50), "norm": (30,)}


def model(name, seed, dtype=np.float32, mass=1, **more):
    rng = np.random.default_rng(seed)
    return tv.from_arrays({n: rng.standard_normal(s).astype(dtype) for n, s in SHAPES.items()} | more, name, mass)


A, B = model("a", 0), model("b", 1)
HALF, WIDE = model("half", 2, np.float16), model("wide", 3, np.float64)
IDS = {"ids": np.arange(5)}


# ---- sizes in words -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("200 MB", 2 * 10**8), ("1GiB", 1 << 30), ("1.5kb", 1500), ("2K", 2000), ("3TB", 3 * 10**12),
     ("1 KiB", 1024), ("2mib", 2 << 20), ("1TiB", 1 << 40), ("7", 7), ("7B", 7), ("8 iB", 8), (1000, 1000), (1.9, 1)],
)  # fmt: skip
def test_a_size_is_read_as_people_write_it(text, size):
    assert parse_size(text, "memory") == size


@pytest.mark.parametrize("text", ["", "GB", "5XB", "five", "1e999GB", "5KMiB", "5BKiB", "--", "5KM", "nan"])
def test_what_is_no_size_is_named_with_what_it_is_for(text):
    with pytest.raises(RecipeError, match=r"shard size: .* is no size; write 5GB, 200MB or 1GiB"):
        parse_size(text, "shard size")


@pytest.mark.parametrize("size", [0, -1, "0", "-5GB", "0.1B", 0.9])
def test_a_size_is_positive(size):
    with pytest.raises(RecipeError, match=r"memory: .* is not positive"):
        parse_size(size, "memory")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (999.4, "999 B"), (999.5, "1 kB"), (1000, "1 kB"), (1234567, "1.23 MB"),
     (5 * 10**9, "5 GB"), (999.6e9, "1 TB"), (2.5e15, "2.5e+03 TB"), (65536, "65.5 kB")],
)  # fmt: skip
def test_a_size_is_written_in_three_digits(size, text):
    assert readable(size) == text


# ---- dtypes -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("weights", "options", "dtypes"),
    [
        (0.5 * HALF + 0.5 * A, {}, {"F16"}), (0.5 * A + 0.5 * HALF, {}, {"F32"}), (A - HALF, {}, {"F32"}),
        (A - WIDE, {}, {"F64"}), (0.5 * A + 0.5 * B, {"dtype": "bfloat16"}, {"BF16"}),
        (A - B, {"dtype": "fp16"}, {"F16"}),
        (0.5 * A + 0.5 * B, {"like": HALF}, {"F16"}), (0.5 * A + 0.5 * B, {"like": HALF, "dtype": "float64"}, {"F64"}),
    ],
)  # fmt: skip
def test_the_dtype_of_the_output_is_what_was_asked_for_or_that_of_a_model(weights, options, dtypes):
    found = plan(weights, **options)
    assert {spec.dtype for spec in found.specs.values()} == dtypes
    assert {n: spec.shape for n, spec in found.specs.items()} == SHAPES


def test_integers_keep_their_dtype_in_a_model_and_are_left_out_of_a_vector():
    a, b = model("a", 0, **IDS), model("b", 1, **IDS)
    assert plan(0.5 * a + 0.5 * b, dtype="float16").specs["ids"] == Spec((5,), "I64")
    assert "ids" not in plan(a - b).specs
    assert plan(0.5 * a + 0.5 * b).bytes_in == plan(0.5 * A + 0.5 * B).bytes_in, "what passes through is not counted"


def test_a_view_of_a_model_keeps_the_dtypes_in_which_the_model_is_stored():
    assert {spec.dtype for spec in plan(tv.rename(HALF, {"norm": "last"})).specs.values()} == {"F16"}


# ---- files ---------------------------------------------------------------------------------------------
def test_a_file_takes_tensors_in_order_until_the_next_does_not_fit():
    sizes = {n: 4 * np.prod(s) for n, s in SHAPES.items()}
    assert [*sizes.values()] == [12_000, 12_000, 12_000, 120]
    for limit, groups in ((24_000, [2, 2]), (23_999, [1, 1, 2]), (36_120, [4]), (36_119, [3, 1]), (1, [1, 1, 1, 1])):
        found = plan(A, shard_size=limit).shards
        assert [len(s.specs) for s in found] == groups
        assert [n for s in found for n in s.specs] == [*SHAPES]
        many = len(groups) > 1
        wanted = [f"model-{k + 1:05d}-of-{len(groups):05d}.safetensors" for k in range(len(groups))]
        assert [s.filename for s in found] == (wanted if many else ["model.safetensors"])
    assert [s.filename for s in plan(A, shard_size=1, filename="x.safetensors").shards] == ["x.safetensors"]
    assert [s.filename for s in plan(A - B).shards] == ["task_vector.safetensors"]


def test_data_begin_at_a_page_and_follow_one_another():
    (found,) = plan(0.5 * A + 0.5 * HALF, filename="x.safetensors").shards
    assert found.header_size % PAGE == 0 and min(found.offsets.values()) == found.header_size
    ends = sorted((at, at + found.specs[n].nbytes) for n, at in found.offsets.items())
    assert [end for _, end in ends] == [*[start for start, _ in ends[1:]], found.size]
    assert plan(A, shard_size=1).bytes_out == sum(s.size for s in plan(A, shard_size=1).shards)


def test_a_header_that_no_reader_takes_is_refused(monkeypatch):
    few = shard("x.safetensors", {"w": Spec((1,), "F32")}, {})
    monkeypatch.setattr(planning, "LONGEST_HEADER", few.header_size - 8)
    shard("x.safetensors", {"w": Spec((1,), "F32")}, {})
    monkeypatch.setattr(planning, "LONGEST_HEADER", few.header_size - 9)
    with pytest.raises(OutputError, match=r"x.safetensors would begin with a header of 4.1 kB for 1 tensors.*4.09 kB"):
        shard("x.safetensors", {"w": Spec((1,), "F32")}, {})


@pytest.mark.parametrize(
    ("file", "stem"),
    [("model.safetensors", "model"), ("model.fp16.safetensors", "model.fp16"), ("my_weights.safetensors", "model"),
     ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model"), ("modelx.safetensors", "model")],
)  # fmt: skip
def test_files_are_called_what_a_loader_of_the_model_looks_for(tmp_path, build, file, stem):
    build.model(tmp_path / "m", build.tensors(0)).joinpath("model.safetensors").rename(tmp_path / "m" / file)
    w = tv.load(tmp_path / "m")
    assert weights_stem(w.donor) == stem and plan(w).shards[0].filename == f"{stem}.safetensors"
    assert plan(w, shard_size=1).shards[0].filename == f"{stem.partition('.')[0]}-00001-of-00004.safetensors"
    assert plan(w, shard_size=144).shards[0].filename == f"{stem.partition('.')[0]}-00001-of-00003.safetensors"
    assert plan(w, shard_size=300).shards[0].filename == f"{stem.partition('.')[0]}-00001-of-00002.safetensors"
    assert weights_stem(None) == weights_stem(A.donor) == "model"


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_shards_of_a_model_are_called_as_the_model_is(tmp_path, build, stem):
    folder = build.model(tmp_path / "m", build.tensors(0), shards=2)
    for path in [*folder.glob("model*")]:
        path.write_bytes(path.read_bytes().replace(b"model-0000", f"{stem}-0000".encode()))
        path.rename(path.with_name(path.name.replace("model", stem)))
    assert weights_stem(tv.load(folder).donor) == stem


# ---- blocks --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["F32", "F16", "F64"])
def test_blocks_cover_every_element_once_in_the_order_of_the_files(dtype):
    found = replace(plan(0.5 * A + 0.5 * B, dtype=dtype, shard_size=20_000), block=1000)
    width, at = BITS[dtype] // 8, {}
    blocks = [*found.blocks()]
    assert [b.index for b in blocks] == [*range(len(blocks))] and [b.shard for b in blocks] == sorted(
        b.shard for b in blocks
    )
    for b in blocks:
        s = found.shards[b.shard]
        assert b.start == at.get(b.name, 0) and 0 < b.count * width <= 1000
        assert b.offset == s.offsets[b.name] + b.start * width
        at[b.name] = b.start + b.count
    assert at == {n: np.prod(s) for n, s in SHAPES.items()}
    assert blocks == sorted(blocks, key=lambda b: (b.shard, b.offset))


def test_tensors_without_elements_have_no_blocks():
    w = tv.from_arrays({"none": np.zeros((0, 3), np.float32), "s": np.float32(1)})
    assert [(b.name, b.count) for b in plan(w).blocks()] == [("s", 1)]


# ---- memory ---------------------------------------------------------------------------------------------
def test_memory_takes_the_largest_blocks_and_the_most_threads_that_fit():
    w = tv.from_arrays({"w": np.zeros((3000, 1000), np.float32)}, "w") * 0.5 + 0.5 * tv.from_arrays(
        {"w": np.ones((3000, 1000), np.float32)}, "v"
    )
    roomy, one = plan(w, ram="2GB", threads=4), plan(w, ram="2GB", threads=1)
    assert (
        BLOCKS == (2 << 20, 1 << 20, 512 << 10, PIECE)
        and PIECE == 256 << 10
        and PROGRAM == 64 << 20
        and roomy.block == BLOCKS[0]
        and roomy.threads == 4
    )
    assert roomy.peak <= roomy.ram == 2 * 10**9 and one.peak > PROGRAM
    each, rest = divmod(roomy.peak - one.peak, 3)  # what a thread takes: its block, and as much of each source
    assert rest == 0 and 3 * BLOCKS[0] < each < 4 * BLOCKS[0]
    assert plan(w, ram=roomy.peak, threads=4) == replace(roomy, ram=roomy.peak)
    tight = plan(w, ram=roomy.peak - 1, threads=4)
    assert tight.threads == 4 and tight.block == BLOCKS[1] and tight.peak < roomy.peak
    least = plan(w, ram="2GB", threads=2).peak
    while (smaller := plan(w, ram=least - 1, threads=2)).block > PIECE:
        least = smaller.peak
    with pytest.raises(TaskvecError, match="of memory"):
        plan(w, ram=smaller.peak - 1, threads=2)


def test_threads_that_nobody_asked_for_are_as_many_as_fit(monkeypatch):
    monkeypatch.setattr(planning, "default_threads", lambda busy: 4 if busy else 3)
    w = 0.5 * A + 0.5 * B
    assert (
        plan(w).threads == 3 and plan(w, durable=False).threads == 4 and plan(w, durable=False, threads=2).threads == 2
    )
    assert plan(w, ram=plan(w, threads=2).peak).threads == 2 and plan(w, ram=plan(w, threads=1).peak).threads == 1
    assert plan(A + tv.ties(B - A, density=0.5)).threads == 4, "there is Python to run between the kernels"


def test_too_little_memory_names_the_least_that_is_enough():
    w = 0.5 * A + 0.5 * B
    for threads, said in ((3, 3), (None, 1)):
        with pytest.raises(TaskvecError, match=rf"this needs at least .* of memory \({said} threads\), not 1 MB"):
            plan(w, ram="1MB", threads=threads)
    with pytest.raises(RecipeError, match="threads must be at least 1, not 0"):
        plan(w, threads=0)


def test_the_least_is_that_of_the_smallest_blocks(monkeypatch):
    w = 0.5 * A + 0.5 * B
    monkeypatch.setattr(planning, "BLOCKS", (PIECE,))
    for threads in (3, 1):
        with pytest.raises(TaskvecError) as told:
            plan(w, ram="1MB", threads=threads)
        assert f"at least {readable(plan(w, threads=threads).peak)} of memory" in str(told.value)


def test_what_passes_through_needs_no_memory_but_its_block():
    ids = {"ids": np.arange(10**6)}
    w = 0.5 * model("a", 0, **ids) + 0.5 * model("b", 1, **ids)
    assert BLOCKS[0] - 10**5 < plan(w, threads=1).peak - plan(0.5 * A + 0.5 * B, threads=1).peak < BLOCKS[0] + 10**5


def test_a_thousand_tensors_and_their_texts_take_memory(tmp_path, build):
    many = {f"w{k}": np.ones(1, np.float32) for k in range(1000)}
    one = tv.from_arrays({"w": np.ones(1, np.float32)})
    sinks = [cost_of_sink(weights.specs).once for weights in (tv.from_arrays(many), one)]
    more = plan(tv.from_arrays(many), threads=1).peak - plan(one, threads=1).peak
    assert more == 999 * (3000 + 200) + sinks[0] - sinks[1] and sinks[0] > 1000 * sinks[1] / 2


# ---- what is refused -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda: plan("base"), RecipeError, "weights are what load or parse returns, not str"),
        (lambda: plan(A, like="base"), RecipeError, "weights are what load or parse returns, not str"),
        (lambda: plan(A, like=0.5 * A + 0.5 * B), RecipeError, "like= must be one model, not an expression"),
        (lambda: plan(A + B), MassError, "this has mass 2"), (lambda: plan(A - A), RecipeError, "everything cancels"),
        (lambda: plan(A, dtype="int8"), RecipeError, "dtype 'int8'"),
        (lambda: plan(A, shard_size="x"), RecipeError, "shard size: 'x' is no size"),
        (lambda: plan(A, ram="x"), RecipeError, "memory: 'x' is no size"),
        (lambda: plan(A, like=model("c", 1, more=np.ones(2, np.float32))), MismatchError, "more"),
        (lambda: plan(A + tv.only("nothing.*") * (B - A)), RecipeError, "patterns that do nothing"),
        (lambda: plan(tv.layers(0, 1) * A + tv.layers(1, 0) * B), RecipeError, "embed belongs to no layer"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused_before_any_data_is_read(make, kind, says):
    with pytest.raises(kind, match=says):
        make()


# ---- what it says -----------------------------------------------------------------------------------------
def test_a_plan_is_told_to_a_person_and_to_a_machine(tmp_path, build):
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed))
    base, math = tv.load(tmp_path / "base"), tv.load(tmp_path / "math")
    found = plan(base + tv.ties(math - base, density=0.5), threads=2)
    size = 4 * (40 + 32 + 32 + 4)
    assert (found.passes, found.kind, found.bytes_out) == (2, 1, found.shards[0].header_size + size)
    assert found.bytes_in == size + 2 * 2 * size
    said = json.loads(json.dumps(found.as_dict()))
    assert said == {
        "recipe": "base + elect(trim(math - base, density=0.5))",
        "mass": 1, "sources": {n: tv.load(tmp_path / n).donor.text for n in ("base", "math")}, "like": base.donor.text,
        "tensors": 4, "passes": 2, "bytes_in": found.bytes_in, "bytes_out": found.bytes_out,
        "shards": [{"file": "model.safetensors", "tensors": 4, "bytes": found.bytes_out}], "threads": 2,
        "block_bytes": found.block, "peak_memory_bytes": found.peak, "ram_bytes": 10**9,
    }  # fmt: skip
    lines = str(found).splitlines()
    assert lines[0] == f"recipe   {said['recipe']}" and lines[1].endswith(" (mass 1)")
    assert f"output   a model: 4 tensors, F32, {readable(found.bytes_out)} in 1 file" in lines
    assert f"reads    {readable(found.bytes_in)} in 2 passes" in lines
    assert lines[-1].startswith(f"memory   at most {readable(found.peak)} of 1 GB: 2 threads, blocks of ")


def test_one_and_several_have_their_words():
    text = str(plan(A - B, shard_size=1))
    assert "a task vector: 4 tensors, F32, " in text and "in 4 files" in text and "in 1 pass\n" in text
    assert plan(A - B).as_dict()["like"] is None and plan(A).as_dict()["like"] == "a"
