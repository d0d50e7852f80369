"""What the folder of formats promises as a whole: a format is one file. Which formats are asked is written down in
`open_source` today, so the test puts the sample before them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FormatError, SourceChanged
from taskvec.recipes import recipe
from taskvec.sources.source import Source

SAMPLE = Path(__file__).with_name("sample.py")


@pytest.fixture
def sample(monkeypatch):
    spec = importlib.util.spec_from_file_location("sample_format", SAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    known = recipe.open_source

    def open_source(uri, revision=None):
        return module.open_source(Path(uri), str(uri)) if module.sniff(Path(uri)) else known(uri, revision)

    monkeypatch.setattr(recipe, "open_source", open_source)
    return module


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.standard_normal((300, 700)).astype(np.float16), "b": rng.standard_normal(5).astype(np.float32),
        "c": np.float32(seed), "ids": np.arange(7),
    }  # fmt: skip


def test_a_format_takes_150_lines_and_merges_with_the_others(sample, build, tmp_path):
    assert len(SAMPLE.read_text().splitlines()) <= 150
    np.savez(tmp_path / "tuned.npz", **arrays(1))
    build.model(
        tmp_path / "base",
        {name: np.asarray(a) for name, a in arrays(0).items() if name != "c"} | {"c": np.zeros((), np.float32)},
    )
    w = tv.parse("base + 0.5*(tuned - base)", base=str(tmp_path / "base"), tuned=str(tmp_path / "tuned.npz"))
    assert all(isinstance(source, Source) for source in w.terms)
    tv.save(w, tmp_path / "out", dtype="float32", threads=2)
    out, base = tv.load(tmp_path / "out"), tv.load(tmp_path / "base")
    for name, array in arrays(1).items():
        wanted = base[name] + np.float32(0.5) * (array.astype(np.float32) - base[name]) if name != "ids" else array
        assert np.array_equal(out[name], wanted), name
    assert tv.parse(str(w)) == w
    plain = tv.from_arrays({name: np.asarray(a) for name, a in arrays(1).items()}, "tuned")
    (mine,), (other,) = tv.load(tmp_path / "tuned.npz").terms, plain.terms
    assert mine.fingerprint == other.fingerprint


def test_what_cannot_be_read_in_place_is_a_stated_error(sample, tmp_path):
    np.savez_compressed(tmp_path / "small.npz", w=np.ones(100, np.float32))
    np.savez(tmp_path / "columns.npz", w=np.asfortranarray(np.ones((3, 4), np.float32)))
    np.savez(tmp_path / "complex.npz", w=np.ones(3, np.complex128))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("small", "columns", "complex", "text"):
        with pytest.raises(FormatError, match=r"cannot be read in place|is not an archive of arrays"):
            tv.load(tmp_path / f"{name}.npz")


def test_an_archive_that_changes_is_not_read_on(sample, tmp_path):
    np.savez(tmp_path / "m.npz", **arrays(1))
    w = tv.load(tmp_path / "m.npz")
    np.savez(tmp_path / "m.npz", **arrays(2), more=np.ones(9, np.float32))
    with pytest.raises(SourceChanged):
        tv.save(w, tmp_path / "out")
    assert not (tmp_path / "out").exists()
