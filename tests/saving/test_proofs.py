"""What an interrupted save may go on with, and what it must notice: every source has a proof of its bytes, or none."""

import json
import os
import shutil
import time

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import OutputError, SourceChanged
from taskvec.saving import staging
from taskvec.saving import stream as streaming
from taskvec.saving.outputs import Destination
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
