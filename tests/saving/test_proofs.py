"""What an interrupted save may go on with, and what it must notice: every source has a proof of its bytes, or none."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from blake3 import blake3

import taskvec as tv
from taskvec.errors import OutputError, SourceChanged
from taskvec.saving import staging
from taskvec.saving import stream as streaming
from taskvec.saving.outputs import Destination
from taskvec.saving.proofs import Proof, holds, proofs_of_others, proofs_of_weights
from taskvec.sources.source import Source

N = 600_000
BETWEEN = slice(10_000, 150_000)  # of the samples that a fingerprint reads


def arrays(seed=0, **more):
    return {"w": np.random.default_rng(seed).standard_normal(N).astype(np.float32), **more}


@pytest.fixture(autouse=True)
def noted_at_once(monkeypatch):
    monkeypatch.setattr(streaming, "SYNC", 1)


def interrupted(weights, out, **options):
    """A save that Ctrl-C ends half way, its journal with it."""

    def stop(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tv.save(weights, out, progress=stop, threads=1, **options)


def saved_anew(weights, tmp_path, reused):
    """The same call once more: whether it went on, and that it gives what a quiet one gives."""
    saved = tv.save(weights, tmp_path / "out", threads=1)
    tv.save(weights, tmp_path / "quiet", threads=1)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("out", "quiet"))
    assert one == two and (saved.reused > 0) == reused
    shutil.rmtree(tmp_path / "quiet")


# ---- arrays in memory -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["m", "another"])
def test_arrays_that_are_the_same_are_gone_on_with(tmp_path, name):
    interrupted(tv.from_arrays(arrays(), name), tmp_path / "out")
    saved_anew(tv.from_arrays(arrays(), name), tmp_path, reused=True)


@pytest.mark.parametrize("place", [BETWEEN, slice(70_001, 70_002)])
def test_arrays_that_changed_are_not_mixed_with_what_they_were(tmp_path, place):
    interrupted(tv.from_arrays(arrays(), "m"), tmp_path / "out")
    changed = arrays()
    changed["w"][place] = 7
    saved_anew(tv.from_arrays(changed, "m"), tmp_path, reused=False)


def test_statistics_and_vectors_in_memory_are_not_mixed_either(tmp_path):
    def expression(value):
        stats = arrays(2)
        stats["w"] = np.abs(stats["w"]) + 1
        stats["w"][BETWEEN] += value
        a, b = (tv.from_arrays(arrays(s), f"m{s}") for s in (0, 1))
        fa, fb = (tv.from_arrays(stats, f"f{s}", statistic="fisher") for s in (0, 1))
        return tv.fisher(a, b, fa, fb)

    interrupted(expression(0), tmp_path / "out")
    saved_anew(expression(1), tmp_path, reused=False)


@pytest.mark.parametrize("place", [BETWEEN, slice(0, 1)])
def test_an_array_that_changes_while_it_is_saved_is_noticed_and_nothing_is_written(tmp_path, place):
    changing = arrays()

    def change(done, total):
        changing["w"][place] = 7

    with pytest.raises(SourceChanged, match="m: an array in memory changed after it was read"):
        tv.save(tv.from_arrays(changing, "m"), tmp_path / "out", progress=change)
    assert not list(tmp_path.iterdir())


def test_an_array_that_changed_between_two_saves_is_refused_and_from_arrays_takes_it(tmp_path):
    """What methods have measured of it, and its fingerprint, are remembered."""
    changing = arrays()
    w = tv.from_arrays(changing, "m")
    tv.save(w, tmp_path / "one")
    changing["w"][BETWEEN] = 7
    with pytest.raises(SourceChanged, match="call from_arrays again"):
        tv.save(w, tmp_path / "two")
    tv.save(tv.from_arrays(changing, "m"), tmp_path / "two")
    assert np.array_equal(tv.load(tmp_path / "two")["w"], changing["w"])


# ---- every source has one -------------------------------------------------------------------------
@pytest.fixture
def files(tmp_path, build):
    home = tmp_path / "its"
    for seed, name in enumerate(("base", "math", "code")):
        build.model(home / name, arrays(seed, **{"v.weight": np.ones((4, 4), np.float32)}))
    rng = np.random.default_rng(3)
    factors = {f"base_model.model.v.lora_{x}.weight": rng.standard_normal(s).astype("f4")
               for x, s in (("A", (2, 4)), ("B", (4, 2)))}  # fmt: skip
    build.lora(home / "lora", factors)
    return home


def test_whatever_is_a_source_has_a_stamp_that_changes_with_its_files(files):
    b, m, lora = (tv.load(files / n) for n in ("base", "math", "lora"))
    made = [b, lora, tv.rename(m, {"w": "x"}), tv.ties(m - b, density=0.5), tv.select(m, "w")]
    for weights in made:
        for source in weights.terms:
            assert isinstance(source, Source) and source.stamp() == source.stamp()
            source.require_unchanged()
    before = {str(w): next(iter(w.terms)).stamp() for w in made}
    time.sleep(0.02)  # more than a tick of the file system's clock
    for path in [*files.rglob("*.safetensors")]:
        about = path.stat()
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    for weights in made:
        with pytest.raises(SourceChanged, match="time of change was put back"):
            next(iter(weights.terms)).require_unchanged()
    b, m, lora = (tv.load(files / n) for n in ("base", "math", "lora"))
    again = [b, lora, tv.rename(m, {"w": "x"}), tv.ties(m - b, density=0.5), tv.select(m, "w")]
    assert all(before[str(w)] != next(iter(w.terms)).stamp() for w in again)


def rewritten(path, change):
    """Changed in place, with the time of change put back, between the samples of a fingerprint."""
    about = path.stat()
    time.sleep(0.02)  # more than a tick of the file system's clock
    with path.open("r+b") as file:
        change(file)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def middle(file):
    file.seek(1 << 18)
    file.write(bytes(1 << 16))


EXPRESSIONS = [
    "base + 0.4*(math - base)",
    "base + ties(math - base, code - base, density=0.3)",
    "select(0.5*math + 0.5*base, 'w')",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_file_that_was_overwritten_and_its_time_put_back_is_not_gone_on_with(tmp_path, files, expression):
    def made():
        return tv.parse(expression, **{n: tv.load(files / n) for n in ("base", "math", "code") if n in expression})

    interrupted(made(), tmp_path / "out")
    rewritten(files / "math/model.safetensors", middle)
    saved_anew(made(), tmp_path, reused=False)


def test_an_adapter_that_says_another_scale_is_another_source(tmp_path, files, build):
    def made():
        return tv.load(files / "base") + tv.load(files / "lora")

    interrupted(made(), tmp_path / "out")
    config = files / "lora/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 5}))
    saved_anew(made(), tmp_path, reused=False)


def test_a_tokenizer_that_changes_meanwhile_is_noticed(tmp_path, files):
    time.sleep(0.02)  # more than a tick of the file system's clock

    def change(done, total):
        (files / "base/tokenizer.json").write_text('{"added_tokens": [1]}')

    with pytest.raises(SourceChanged, match=r"tokenizer.json changed while the output was made"):
        tv.save(0.5 * tv.load(files / "base") + 0.5 * tv.load(files / "math"), tmp_path / "out", progress=change)
    assert [p.name for p in tmp_path.iterdir()] == ["its"]


def test_other_files_beside_a_model_may_change_meanwhile(tmp_path, files):
    def change(done, total):
        (files / "math/config.json").write_text("{}")  # not the model whose configuration is copied
        (files / "base/training.log").write_text("a line")

    tv.save(0.5 * tv.load(files / "base") + 0.5 * tv.load(files / "math"), tmp_path / "out", progress=change)


# ---- one's own methods ----------------------------------------------------------------------------


METHODS = """
import numpy as np
import taskvec as tv

{line}

def helper(x):
    return {factor} * x

@tv.method(local=True)
def scaled(x):
    return helper(x)
"""


@pytest.mark.parametrize(
    ("line", "first", "second", "reused"),
    [("", 0.5, 0.5, True), ("", 0.5, 0.25, False), ("TABLE = {}", 'TABLE.get("factor", 0.5)', None, False)],
)
def test_ones_own_method_is_gone_on_with_only_if_it_is_the_same_code(tmp_path, line, first, second, reused):
    from taskvec.recipes.userfile import methods_in

    def made(factor):
        (tmp_path / "mine.py").write_text(METHODS.format(line=line, factor=factor))
        return methods_in(str(tmp_path / "mine.py"))["scaled"](tv.from_arrays(arrays(), "m"))

    interrupted(made(first), tmp_path / "out")
    saved_anew(made(second if second is not None else first), tmp_path, reused)


# ---- an output that is there already --------------------------------------------------------------
@pytest.fixture
def just_named(tmp_path, files, monkeypatch):
    """A save that is killed right behind its last rename: the output is there, and the folder it grew in."""

    def stop(stage):
        raise KeyboardInterrupt

    def made(name):
        w = tv.load(files / "base") + 0.4 * (tv.load(files / "math") - tv.load(files / "base"))
        with monkeypatch.context() as patch:
            patch.setattr(staging.Staging, "discard", stop)
            with pytest.raises(KeyboardInterrupt):
                tv.save(w, tmp_path / name)
        assert (tmp_path / name).exists() and staging.hidden(tmp_path / name).is_dir()
        return w

    return made


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_whole_output_is_known_by_its_bytes(tmp_path, just_named, name):
    w = just_named(name)
    saved = tv.save(w, tmp_path / name)
    assert saved.reused == saved.bytes_out and not staging.hidden(tmp_path / name).exists()
    assert tv.verify(tmp_path / name).tensors == 2


def flipped(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)  # in place: the inode stays


CHANGED = [
    ("out", "model.safetensors", -5), ("out", "model.safetensors", 40), ("out", "config.json", 3),
    ("out", "taskvec.json", 10), ("out.safetensors", "", -5), ("out.safetensors", "", 40),
]  # fmt: skip


@pytest.mark.parametrize(("name", "part", "at"), CHANGED)
def test_a_whole_output_that_was_changed_since_is_not_believed(tmp_path, just_named, name, part, at):
    w = just_named(name)
    flipped(tmp_path / name / part if part else tmp_path / name, at)
    with pytest.raises(OutputError, match="exists"):
        tv.save(w, tmp_path / name)
    assert not staging.hidden(tmp_path / name).exists()
    tv.save(w, tmp_path / name, overwrite=True)
    tv.verify(tmp_path / name)


def test_a_destination_of_something_else_clears_what_such_a_run_left(tmp_path, just_named):
    just_named("out.safetensors")
    with pytest.raises(OutputError, match="exists"):
        staging.write_file(Destination(tmp_path / "out.safetensors", alone=True), b"x")
    assert not staging.hidden(tmp_path / "out.safetensors").exists()


# ---- the parts ------------------------------------------------------------------------------------
@tv.method(local=True)
def half(delta):
    return delta / 2


def sources(weights):
    return [*weights.terms]


def test_the_stamps_are_those_of_the_sources_and_of_each_call_once_wherever_it_stands():
    m = tv.from_arrays(arrays(), "m")
    (leaf,), (call,), (outer,) = sources(m), sources(half(m)), sources(half(half(m)))
    (of_code,) = call.own_proof()
    assert of_code and Proof([leaf], [leaf], None).stamps == [leaf.stamp()]
    for terms, like in (([call], None), ([leaf], call), ([call], call), ([call, leaf, call], None)):
        assert Proof([leaf], terms, like).stamps == [leaf.stamp(), of_code]
    assert Proof([leaf], [outer], None).stamps == [leaf.stamp(), of_code, of_code]


def test_what_has_no_stamp_is_not_resumed(monkeypatch):
    m = tv.from_arrays(arrays(), "m")
    (leaf,), (call,) = sources(m), sources(half(m))
    assert Proof([leaf], [call], None).resumable
    monkeypatch.setattr(type(call), "own_proof", lambda self: (None,))
    assert not Proof([leaf], [call], None).resumable


def test_what_changed_since_it_was_opened_is_an_error_before_the_work(files, monkeypatch):
    base, math = (tv.load(files / name) for name in ("base", "math"))
    rewritten(files / "base/model.safetensors", middle)
    with pytest.raises(SourceChanged, match="base"):
        Proof(sources(math) + sources(base), [], None)
    (call,) = sources(tv.select(math, "w"))

    def refuse(self):
        raise SourceChanged("its tokenizer changed")

    monkeypatch.setattr(type(call), "require_beside_unchanged", refuse)
    with pytest.raises(SourceChanged, match="its tokenizer changed"):
        Proof(sources(math), [call], None)


def test_a_source_that_changes_during_the_work_is_an_error_after_it(files):
    base, math = (tv.load(files / name) for name in ("base", "math"))
    proof = Proof(sources(math) + sources(base), [], None)
    proof.require_unchanged()
    rewritten(files / "base/model.safetensors", middle)
    with pytest.raises(SourceChanged, match="base"):
        proof.require_unchanged()


@pytest.mark.parametrize("given", ["like", "like that is a call", "term"])
def test_all_files_beside_the_weights_that_changed_are_named(files, given):
    for name in ("merges.txt", "tokenizer.json", "notes.txt"):
        (files / "base" / name).write_text("{}")
    base = tv.load(files / "base")
    (model,), (call,) = sources(base), sources(tv.select(base, "w"))
    proof = Proof([model], [call] if given == "term" else [], {"term": None, "like": model}.get(given, call))
    (files / "base/notes.txt").write_text("changed")
    (files / "math/tokenizer.json").write_text("of another model")
    proof.require_unchanged()
    (files / "base/tokenizer.json").write_text("changed")
    (files / "base/merges.txt").unlink()
    (files / "base/vocab.json").write_text("new")
    with pytest.raises(SourceChanged, match="files beside the weights changed while these were read") as told:
        proof.require_unchanged()
    assert [*told.value.problems] == [str(files / "base" / n) for n in ("merges.txt", "tokenizer.json", "vocab.json")]


def test_the_tokenizers_of_all_models_in_a_call_count(files):
    base, math = (tv.load(files / name) for name in ("base", "math"))
    (call,) = sources(tv.ties(math - base, density=0.5))
    proof = Proof([], [call], None)
    for name in ("math", "base"):
        (files / name / "tokenizer.json").write_text("new")
    with pytest.raises(SourceChanged) as told:
        proof.require_unchanged()
    assert [*told.value.problems] == [str(files / name / "tokenizer.json") for name in ("base", "math")]


def test_files_beside_the_weights_that_are_gone_with_their_folder_are_named(files):
    (files / "code/tokenizer.json").write_text("{}")
    proof = Proof([], [], *sources(tv.load(files / "code")))
    shutil.rmtree(files / "code")
    with pytest.raises(SourceChanged, match=r"tokenizer\.json"):
        proof.require_unchanged()


def test_every_file_of_an_output_is_proven_once(tmp_path, files):
    w = tv.load(files / "base")
    tv.save(w, tmp_path / "out", shard_size="1MB", durable=False)
    todo = tv.plan(w, shard_size="1MB")
    proofs = proofs_of_weights(todo, {shard.filename: f"digest {k}" for k, shard in enumerate(todo.shards)})
    assert proofs == {s.filename: f"{s.header_size} digest {k}" for k, s in enumerate(todo.shards)} and len(proofs) == 2
    (tmp_path / "out/inner").mkdir()
    (tmp_path / "out/inner/a.json").write_text("{}")
    others = proofs_of_others(tmp_path / "out", proofs)
    assert [*others] == sorted(others) and others["inner/a.json"] == blake3(b"{}").hexdigest()
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert names == {*proofs, *others} and not proofs.keys() & others.keys()


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_an_output_holds_what_its_proofs_say_and_nothing_less(tmp_path, files, name):
    tv.save(tv.load(files / "base"), tmp_path / name, durable=False)
    weights = tmp_path / name if name.endswith("s") else tmp_path / name / "model.safetensors"
    data = weights.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    good = {"model.safetensors": f"{size} {blake3(data[:size]).hexdigest()}"}
    assert holds(tmp_path / name, good, 1) is True and holds(tmp_path / name, {}, 1) is False
    for text in (f"{size + 1} {blake3(data[:size]).hexdigest()}", f"{size} {blake3(data[:-1]).hexdigest()}", "x y", ""):
        assert holds(tmp_path / name, {"model.safetensors": text}, 1) is False
    assert holds(tmp_path / name, {"model.safetensors": blake3(data).hexdigest()}, 1) is True  # a digest of all of it
    assert holds(tmp_path / "nowhere", good, 1) is False
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert holds(tmp_path / name, good, 1) is False


def test_a_file_that_an_output_has_lost_is_noticed(tmp_path, files):
    tv.save(tv.load(files / "base"), tmp_path / "out", durable=False)
    proofs = proofs_of_others(tmp_path / "out", ["model.safetensors"])
    assert holds(tmp_path / "out", proofs, 1)
    (tmp_path / "out/README.md").unlink()
    assert not holds(tmp_path / "out", proofs, 1)
