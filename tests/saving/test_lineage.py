"""The record of an output: what it says, how it is written, and how it proves that nothing has changed."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from safetensors.numpy import save_file

import taskvec as tv
from taskvec.errors import DigestError, FormatError, TaskvecError
from taskvec.notes import collected
from taskvec.saving import lineage
from taskvec.saving.lineage import digest, digests, pieces, verify
from taskvec.saving.plan import PIECE

SHAPES = {"model.embed.weight": (10, 4), "model.norm.weight": (4,), "model.big": (70_000,)}


@pytest.fixture
def home(tmp_path, build):
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed, SHAPES) | {"ids": np.arange(3)})
    return tmp_path


@pytest.fixture
def pair(home):
    return tv.load(home / "base"), tv.load(home / "math")


def saved(weights, path):
    tv.save(weights, path, durable=False)
    return path


def record_of(path):
    return json.loads((path / "taskvec.json").read_text())


# ---- digests -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_a_digest_is_that_of_the_digests_of_its_pieces(size):
    data = np.random.default_rng(size).bytes(size)
    of_pieces = pieces(memoryview(data))
    assert of_pieces == [blake3(data[at : at + PIECE]).digest() for at in range(0, size, PIECE)]
    assert digest(of_pieces) == blake3(b"".join(of_pieces)).hexdigest() and digest(iter(of_pieces)) == digest(of_pieces)
    assert PIECE == 256 << 10 and lineage.METHOD == "blake3 of the blake3 digests of its 256 KiB pieces"


def test_the_digests_of_a_source_are_those_of_its_tensors_in_any_dtype():
    arrays = {"w": np.arange(200_000, dtype=np.float64), "b": np.ones(5, bool), "none": np.zeros((0, 3), np.float32)}
    (source,) = tv.from_arrays(arrays).terms
    for threads in (1, 3):
        recomputed = dict(digests(source, source.specs, threads))
        assert recomputed == {name: digest(pieces(memoryview(a.tobytes()))) for name, a in arrays.items()}


# ---- what a record says ----------------------------------------------------------------------------------
def test_the_record_of_a_model_has_no_base_and_all_its_tensors(home, pair):
    base, math = pair
    saved(0.5 * base + 0.5 * math, home / "out")
    record = record_of(home / "out")
    prints = [next(iter(w.terms)).fingerprint for w in pair]
    assert [*record] == ["taskvec", "mass", "recipe", "base", "inputs", "fingerprint", "digest", "files", "tensors"]
    assert (record["taskvec"], record["mass"], record["base"]) == (tv.__version__, 1, None)
    assert record["recipe"] == "0.5*base + 0.5*math" and record["digest"] == lineage.METHOD
    uris = [str(home / name) for name in ("base", "math")]
    inputs = [{"uri": uri, "mass": 1, "fingerprint": p} for uri, p in zip(uris, prints, strict=True)]
    assert record["inputs"] == {"base": inputs[0], "math": inputs[1]}
    (out,) = tv.load(home / "out").terms
    assert record["fingerprint"] == out.fingerprint
    entries = {n: {"dtype": s.dtype, "shape": [*s.shape], "digest": d} for (n, s), (_, d) in
               zip(sorted(out.specs.items()), sorted(digests(out, out.specs, 1)), strict=True)}  # fmt: skip
    assert record["tensors"] == entries and "ids" in entries


def test_a_model_has_no_base_also_where_another_model_is_subtracted(home, pair):
    base, math = pair
    saved(2 * base - math, home / "out.safetensors")
    assert lineage.read(home / "out.safetensors")["base"] is None
    assert "taskvec.base" not in next(iter(tv.load(home / "out.safetensors").terms)).metadata


def test_the_record_of_a_vector_has_its_base_and_says_if_it_is_partial(home, pair, build):
    base, math = pair
    saved(math - base, home / "tau.safetensors")
    tau = lineage.read(home / "tau.safetensors")
    assert (tau["mass"], tau["base"]) == (0, next(iter(base.terms)).fingerprint) and "partial" not in tau
    factors = {f"base_model.model.q.lora_{x}.weight": s for x, s in (("A", (2, 4)), ("B", (3, 2)))}
    build.lora(home / "lora", build.tensors(0, factors))
    saved(2 * tv.load(home / "lora"), home / "more.safetensors")
    assert lineage.read(home / "more.safetensors")["partial"] is True
    about = next(iter(tv.load(home / "more.safetensors").terms)).metadata
    assert about["taskvec.partial"] == "1" and "taskvec.base" not in about


def test_metadata_name_what_a_reader_must_know_before_the_record():
    entry = {"taskvec": "9", "mass": 0, "recipe": "a - b", "base": "cafe", "tensors": {}}
    always = {"format": "pt", "taskvec.version": "9", "taskvec.mass": "0", "taskvec.recipe": "a - b"}
    assert lineage.metadata(entry, alone=False) == always | {"taskvec.base": "cafe"}
    assert lineage.metadata(entry | {"base": None}, alone=False) == always
    whole = {"taskvec": "9", "mass": 0, "recipe": "a - b", "base": None, "partial": True}
    alone = lineage.metadata(whole, alone=True)
    text = '{"taskvec":"9","mass":0,"recipe":"a - b","base":null,"partial":true}'
    assert alone == always | {"taskvec.partial": "1", "taskvec.lineage": text}


def test_what_was_forced_and_ones_own_methods_are_in_the_record(pair):
    @tv.method
    def half(delta):
        return delta / 2

    base, math = pair
    plain, mine = (lineage.begun(w, 1, {"forced": True}) for w in (math, base + half(math - base)))
    assert plain["forced"] is mine["forced"] is True and "methods" not in plain
    assert [*mine["methods"]] == ["half"] and mine["methods"]["half"].startswith("blake3 of its code: ")


def test_the_longest_record_is_as_long_as_one_that_is_completed(pair):
    """The length of a header that holds the record must be known before there is any data."""
    base, math = pair
    entry, names = lineage.begun(math - base, 0, {}), [*math.specs]
    done = lineage.completed(entry, math.specs, digest([b"print"]), {name: digest([name.encode()]) for name in names})
    assert "fingerprint" not in entry and "tensors" not in entry
    assert len(json.dumps(done)) == len(json.dumps(lineage.longest(entry, math.specs, False)))
    bad = len(json.dumps(done | {"nonfinite": names}))
    assert bad == len(json.dumps(lineage.longest(entry, math.specs, True)))


def test_an_input_says_only_what_is_known_of_it():
    x = {"w": np.ones(2, "f4")}
    (plain,), (fisher,) = tv.from_arrays(x, "m").terms, tv.from_arrays(x, "f", statistic="fisher").terms
    entries = lineage.origins({"m": plain, "f": fisher})
    of_fisher = {"mass": 0, "statistic": "fisher", "fingerprint": fisher.fingerprint}
    assert entries == {"inputs": {"m": {"mass": 1, "fingerprint": plain.fingerprint}, "f": of_fisher}}


def test_an_input_from_a_file_says_where_it_is_from_and_what_it_is(home, pair):
    base, math = pair
    saved(math - base, home / "tau.safetensors")
    (tau,), (model,) = tv.load(home / "tau.safetensors").terms, base.terms
    of_tau = lineage.origins({"tau": tau})["inputs"]["tau"]
    assert (of_tau["uri"], of_tau["mass"], of_tau["base"]) == (tau.uri, 0, model.fingerprint)
    assert "revision" not in of_tau and "digest" not in of_tau
    pinned = type(model).opened(model.place, "", "org/base", "4f2a")
    of_pinned = lineage.origins({"base": pinned})["inputs"]["base"]
    assert (of_pinned["uri"], of_pinned["revision"]) == ("org/base", "4f2a") and "made_from" not in of_pinned
    save_file({"w": np.ones(2, "f4")}, home / "kept.safetensors", metadata={"taskvec.digest": "cafe"})
    (kept,) = tv.load(home / "kept.safetensors").terms
    assert lineage.origins({"kept": kept})["inputs"]["kept"]["digest"] == "cafe"


@pytest.mark.parametrize("name", ["mean", "mean.safetensors"])
def test_an_input_that_taskvec_made_says_from_what_and_nothing_is_left_out(home, pair, name):
    base, math = pair
    mean = tv.load(saved((base + math) / 2, home / name))
    with collected() as notes:
        origins = lineage.origins({"mean": next(iter(mean.terms))})
    assert [*origins] == ["inputs", "ancestors"] and not notes
    assert origins["ancestors"][origins["inputs"]["mean"]["made_from"]]["recipe"] == "0.5*base + 0.5*math"


def test_a_record_is_one_line_for_each_tensor():
    entry = {"taskvec": "1", "inputs": {"a": {"mass": 1}}, "tensors": {"x": {"dtype": "F32"}, 'y"': {"dtype": "F16"}}}
    text = lineage.as_text(entry)
    assert json.loads(text) == entry
    assert text == (
        '{\n "taskvec": "1",\n "inputs": {\n  "a": {\n   "mass": 1\n  }\n },\n "tensors": {\n'
        '  "x": {"dtype": "F32"},\n  "y\\"": {"dtype": "F16"}\n }\n}\n'
    )


# ---- reading it --------------------------------------------------------------------------------------------
def test_what_taskvec_did_not_write_has_no_record(home, tmp_path):
    assert lineage.read(home / "base") is None and lineage.read(home / "base" / "model.safetensors") is None
    assert lineage.read(home / "nowhere") is None


@pytest.mark.parametrize(
    "change",
    [{"inputs": []}, {"tensors": None}, {"fingerprint": 3}, {"tensors": {"w": {"dtype": "F32", "shape": []}}},
     {"tensors": {"w": {"dtype": 1, "shape": [], "digest": ""}}}, {"tensors": {"w": []}}, {"recipe": None},
     {"tensors": {"v": {"dtype": "F32", "shape": [], "digest": ""}, "w": {}}},
     {"tensors": {"w": {"dtype": "F32", "shape": 3, "digest": ""}}}],
)  # fmt: skip
def test_a_record_that_is_not_as_taskvec_writes_it_is_refused(tmp_path, change):
    good = {
        "recipe": "a",
        "inputs": {},
        "fingerprint": "",
        "tensors": {"w": {"dtype": "F32", "shape": [], "digest": ""}},
    }
    (tmp_path / "taskvec.json").write_text(json.dumps(good))
    assert lineage.read(tmp_path)["fingerprint"] == ""
    (tmp_path / "taskvec.json").write_text(json.dumps(good | change))
    with pytest.raises(FormatError, match=r"taskvec.json holds no record that can be read: it is not as taskvec"):
        lineage.read(tmp_path)


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[]", b"[" * 100_000])
def test_a_record_that_is_no_json_table_is_refused(tmp_path, data):
    (tmp_path / "taskvec.json").write_bytes(data)
    with pytest.raises(FormatError, match=r"taskvec.json holds no record that can be read"):
        lineage.read(tmp_path)


def test_a_record_that_may_not_be_read_is_a_stated_error(home, pair, monkeypatch):
    def refused(*rest, **more):
        raise PermissionError(errno.EACCES, "Permission denied")

    saved(pair[0], home / "out")
    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(TaskvecError, match=r"taskvec.json: permission denied"):
        lineage.read(home / "out")


# ---- proof -------------------------------------------------------------------------------------------------
def altered(path, change):
    record = record_of(path)
    change(record)
    (path / "taskvec.json").write_text(json.dumps(record))


def test_every_tensor_is_read_and_counted(home, pair):
    saved(pair[0], home / "out")
    told = []
    verified = verify(str(home / "out"), threads=1, progress=lambda done, total: told.append((done, total)))
    total = sum(s.nbytes for s in next(iter(pair[0].terms)).specs.values())
    assert (verified.path, verified.tensors, verified.bytes) == (home / "out", 4, total)
    assert len(told) == 4 and told[-1] == (total, total) and [d for d, _ in told] == sorted(d for d, _ in told)
    assert str(verified) == f"{home / 'out'}: all 4 tensors hold what was written"
    assert verify(str(home / "out")) == verified


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["tensors"].pop("ids"), ["ids was not written by taskvec"]),
        (lambda r: r["tensors"].update(more=r["tensors"]["ids"]), ["more is missing"]),
        (lambda r: r["tensors"]["ids"].update(digest="0" * 64), ["ids holds other data than were written"]),
        (lambda r: r["tensors"]["ids"].update(shape=[1, 3]), ["ids holds other data than were written"]),
        (lambda r: r["tensors"]["ids"].update(dtype="I32"), ["ids holds other dtypes than were written"]),
        (lambda r: r.update(fingerprint="0"), ["the fingerprint is another than the one that was written"]),
        (lambda r: (r.update(fingerprint="0"), r["tensors"]["ids"].update(digest="0"),
                    r["tensors"].update(a=r["tensors"].pop("model.big"))),
         ["a is missing", "ids holds other data than were written", "model.big was not written by taskvec"]),
    ],
)  # fmt: skip
def test_every_difference_is_listed(home, pair, change, says):
    saved(pair[0], home / "out")
    altered(home / "out", change)
    with pytest.raises(DigestError, match="is not what was written:") as told:
        verify(str(home / "out"))
    assert [*told.value.problems] == says


def test_what_taskvec_did_not_write_cannot_be_verified(home):
    with pytest.raises(DigestError, match="base has no digests: taskvec did not write it"):
        verify(str(home / "base"))


@pytest.mark.parametrize("ram", ["1GB", "68MB"])
@pytest.mark.parametrize("numel", [4 * 1_398_101, 4 * 350_000, 4])
def test_elements_of_six_bits_are_copied_and_digested_whatever_the_size_of_a_block(tmp_path, numel, ram):
    """Four of them fill three bytes, so most of their blocks of a power of two would end within a byte."""
    size = numel * 6 // 8
    header = json.dumps({"w": {"dtype": "F6_E2M3", "shape": [numel // 4, 4], "data_offsets": [0, size]}}).encode()
    data = np.random.default_rng(numel).bytes(size)
    (tmp_path / "six.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    tv.save(tv.load(tmp_path / "six.safetensors"), tmp_path / "out.safetensors", ram=ram, durable=False)
    assert (tmp_path / "out.safetensors").read_bytes().endswith(data)
    assert verify(str(tmp_path / "out.safetensors"), threads=1).bytes == size
    assert lineage.read(tmp_path / "out.safetensors")["tensors"]["w"]["digest"] == digest(pieces(memoryview(data)))
