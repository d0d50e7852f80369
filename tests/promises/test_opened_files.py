"""Each file of an output is opened once, and what is said about an output needs no reading back."""

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec as tv
from taskvec.analysis.match import write
from taskvec.saving import staging
from taskvec.views.permuted import in_memory
from taskvec.views.symmetries import Group

HEARD: list[str] | None = None  # the files that are opened, while a test listens


def hook(event, arguments):
    if HEARD is not None and event == "open" and isinstance(arguments[0], str | Path):
        HEARD.append(str(arguments[0]))


sys.addaudithook(hook)  # which cannot be taken away again


@pytest.fixture
def heard(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "HEARD", [])
    return HEARD


@pytest.fixture
def sources(tmp_path, build):
    home = tmp_path / "its"
    for seed, name in enumerate(("base", "math")):
        build.model(home / name, build.tensors(seed))
    return tv.load(home / "base"), tv.load(home / "math")


@pytest.mark.parametrize(("name", "files"), [("out", 1), ("out.safetensors", 1), ("shards", 4)])
def test_a_file_of_weights_is_opened_once_and_the_output_never_again(tmp_path, sources, heard, name, files):
    base, math = sources
    tv.save(0.5 * base + 0.5 * math, tmp_path / name, durable=False, shard_size="100B" if files > 1 else "5GB")
    opened = Counter(p for p in heard if ".taskvec/files" in p)
    weights = {p: n for p, n in opened.items() if p.endswith(".safetensors")}
    assert len(weights) == files and {*weights.values()} == {1}
    assert not [p for p in heard if p.startswith(str(tmp_path / name))]


def test_a_file_of_permutations_is_opened_once_too(tmp_path, heard):
    permutation = in_memory({"g": Group(3, (("w", 0, 1),))}, {"g": np.array([2, 0, 1])})
    write(tmp_path / "p.safetensors", permutation)
    staged = [p for p in heard if p.endswith("p.safetensors")]
    assert {*staged} == {str(tmp_path / ".p.safetensors.taskvec/files/p.safetensors")}
    assert len(staged) == 1 + hasattr(os, "O_DIRECT")  # for writes past the cache there is a second descriptor


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_what_an_earlier_run_has_written_is_told_as_that_run_would_have(tmp_path, sources, monkeypatch, name):
    """Killed right behind its last step; the next run has only the record to tell from."""
    base, _ = sources
    x = {n: base[n].copy() for n in base}
    x["model.norm.weight"][1] = np.nan
    save_file(x, tmp_path / "its/x.safetensors")
    weights = 0.5 * tv.load(tmp_path / "its/x.safetensors") + 0.5 * base
    quiet = tv.save(weights, tmp_path / f"quiet-{name}", allow_nonfinite=True)

    def stop(stage):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging.Staging, "discard", stop)
        with pytest.raises(KeyboardInterrupt):
            tv.save(weights, tmp_path / name, allow_nonfinite=True)
    again = tv.save(weights, tmp_path / name, allow_nonfinite=True)
    assert again.reused == again.bytes_out and quiet.reused == 0
    assert (again.fingerprint, again.nonfinite) == (quiet.fingerprint, quiet.nonfinite)
    assert quiet.nonfinite == ("model.norm.weight",) and tv.load(tmp_path / name).terms
