"""Random situations over architectures, adapters, dtypes, methods and recipes, against independent oracles.

Each seed is one situation: real files, an expression over them, written by `tv.save` with two settings of threads,
memory and shards, loaded into a live module, and one in ten also merged by the command line. Values must lie within
bounds that follow from the arithmetic (eager.py), all doors must give the same bytes, and what must be refused is
refused with a stated error and no output.

    make test-oracle                                              # 1,000 of them
    TASKVEC_SITUATIONS=50 make test-oracle                        # fewer
    TASKVEC_SITUATION=17 pytest -m oracle tests/oracle            # one alone
"""

import contextlib
import os
import subprocess
import sys
from collections import Counter

import models
import numpy as np
import pytest
import torch
from bounds import Undecided, nearest
from situations import refused, situation

import taskvec as tv
from recipes import Leaf, leaves

pytestmark = pytest.mark.oracle
ALONE, FIRST, COUNT = (os.environ.get(f"TASKVEC_SITUATION{end}") for end in ("", "_FIRST", "S"))
SEEDS = [int(ALONE)] if ALONE else range(int(FIRST or 0), int(FIRST or 0) + int(COUNT or 1000))
REFUSES = 12  # one seed in so many must be refused
SHARPNESS = Counter()  # entries whose bits are known, and all


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


@pytest.mark.parametrize("seed", SEEDS)
def test_situation(seed, tmp_path, cache):
    make, check = (refused, check_refused) if seed % REFUSES == 5 else (situation, check_values)
    told = make(seed, tmp_path, cache)
    try:
        check(told, tmp_path)
    except Exception as error:
        alone = f"TASKVEC_SITUATION={seed} python -m pytest -m oracle tests/oracle"
        raise AssertionError(f"{type(error).__name__}: {error}\n{told}\n\nThis one alone: {alone}") from error


def test_the_bounds_are_sharp():
    """Most entries are known to within 4e-6 of themselves or two numbers of the dtype: the comparison can fail."""
    if SHARPNESS["all"] > 10**6:
        assert SHARPNESS["sharp"] > 0.9 * SHARPNESS["all"], SHARPNESS


# ---- what must hold ------------------------------------------------------------------------------------------------
def check_values(told, folder):
    for name, found, difference in told.stored:
        wanted = {n: told.oracle.value(difference, n) for n in found}
        compare(
            found, wanted, f"the stored difference {name}", {n: "F32" for n in found if found[n].dtype == np.float32}
        )
    weights = expression(told)
    like = tv.load(told.sources[told.like]) if told.like else None
    try:
        wanted, dtypes = expected(told)
    except Undecided:  # directions that cancel out: refused, or rounding has decided
        with contextlib.suppress(tv.TaskvecError):
            save(weights, folder / "out", told.run, told, like)
        return
    out = save(weights, folder / "out", told.run, told, like)
    assert set(out) == {*wanted, *passed(told)}, "the names of the tensors"
    compare(out, wanted, "tv.save", dtypes)
    for name, array in passed(told).items():
        assert same(out[name], array), f"{name} passes through as it is"
    for name in list(wanted)[-2:]:
        read = {name: np.asarray(weights[name])}
        compare(read, {name: told.oracle.value(told.node, name)}, f"weights[{name!r}]", {})
    again = save(expression(told), folder / "again", told.again, told, like)
    same_bytes(again, out, f"tv.save with {told.again}")
    module = module_like(
        out | {n: a for n, a in told.others.items() if n in weights}
    )  # a vector's file has no integers
    tv.load_into(module, weights, threads=told.again["threads"])
    same_bytes({n: a for n, a in tensors_of(module).items() if n in out}, out, "load_into")
    if told.by_command:
        done = command(told, folder / "by_command")
        assert done.returncode == 0, done.stderr
        same_bytes(models.read(folder / "by_command"), out, "the command line")


def check_refused(told, folder):
    before = contents(folder)
    if told.by_command:
        done = command(told, folder / "out")
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr and done.stderr.startswith("error: "), done.stderr
    else:
        with pytest.raises(tv.TaskvecError):
            tv.save(tv.parse(told.recipe, **told.sources), folder / "out", dtype=told.dtype, **told.run)
    assert contents(folder) == before, "nothing is left behind"


# ---- the doors -----------------------------------------------------------------------------------------------------
def save(weights, place, run, told, like):
    tv.save(weights, place, dtype=told.dtype, like=like, durable=False, **run)
    return models.read(place)


def expression(told):
    """The recipe, its knobs bound."""
    weights = tv.parse(told.recipe, **told.sources)
    return weights.bind(**told.knobs) if told.knobs else weights


def command(told, place):
    arguments = [*(told.command or ["merge"]), "-o", place, "--no-fsync"]
    arguments += ["--threads", told.run["threads"], "--ram", told.run["ram"], "--shard-size", told.again["shard_size"]]
    arguments += ["--dtype", told.dtype] * bool(told.dtype) + ["--like", told.like] * bool(told.like)
    arguments += [f"--set={name}={value}" for name, value in told.knobs.items()]
    if not told.command:
        arguments += [
            "--",
            told.recipe,
            *(f"{n}={uri}" for n, uri in told.sources.items()),
        ]  # it may begin with a minus
    given = [sys.executable, "-m", "taskvec", *map(str, arguments)]
    return subprocess.run(given, capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "200"})


def module_like(tensors):
    """A module with parameters of these names, shapes and dtypes."""
    root = torch.nn.Module()
    for name, array in tensors.items():
        *path, last = name.split(".")
        at = root
        for part in path:
            if part not in at._modules:
                at.add_module(part, torch.nn.Module())
            at = at._modules[part]
        kind = {"BF16": torch.bfloat16, "BOOL": torch.bool}.get(models.NAMES[array.dtype])
        at.register_buffer(last, torch.zeros(array.shape, dtype=kind or getattr(torch, array.dtype.name)))
    return root


def tensors_of(module):
    found = {}
    for name, tensor in module.state_dict().items():
        array = (
            tensor.view(torch.int16).numpy().view(models.KINDS["BF16"])
            if tensor.dtype == torch.bfloat16
            else tensor.numpy()
        )
        found[name] = array
    return found


# ---- what is compared ----------------------------------------------------------------------------------------------
def expected(told):
    """Name -> what the oracle says; the dtypes that the output must have."""
    node, oracle = told.node, told.oracle
    names = [n for n in oracle.shapes(node) if oracle.floating(node, n)]
    dtypes = {n: dtype_of(told, n) for n in names}
    return {n: oracle.value(node, n, wide=dtypes[n] == "F64") for n in names}, dtypes


def dtype_of(told, name):
    """As asked for; else that of `like` or of the first model that takes part; a vector has what it is summed in."""
    oracle, node = told.oracle, told.node
    if told.dtype:
        return told.dtype
    if not oracle.mass(node):
        if oracle.has_doubles(oracle.numbers(node, name)):
            return "F64"
        every = {(Leaf(n), name) for n in leaves(node) if name in oracle.sources[n].dtypes}
        return None if oracle.has_doubles(every) else "F32"  # what a filter leaves out may count, or not
    donor = (Leaf(told.like), name) if told.like else donor_of(oracle, node, name)
    return oracle.sources[donor[0].name].dtypes[donor[1]]


def donor_of(oracle, node, name):
    """The first model that takes part, and the tensor of it."""
    kind = type(node).__name__
    if kind == "Leaf":
        return node, name
    if kind == "View":
        k, old = oracle.moved(node)[name]
        return donor_of(oracle, node.args[k], old)
    if kind == "Macro":
        return donor_of(oracle, node.meaning, name)
    children = [t[2] for t in node.terms if t[0] and oracle.mass(t[2])] if kind == "Sum" else node.args
    return donor_of(oracle, children[0], name)


def passed(told):
    """What is no float, of a model."""
    if not told.oracle.mass(told.node):
        return {}
    found = {}
    for name in told.oracle.shapes(told.node):
        if not told.oracle.floating(told.node, name):
            leaf, inner = donor_of(told.oracle, told.node, name)
            found[name] = told.oracle.sources[leaf.name].others[inner]
    return found


def compare(found, wanted, door, dtypes):
    for name, val in wanted.items():
        array = found[name]
        dtype = models.NAMES[array.dtype]
        if dtypes.get(name):
            assert dtype == dtypes[name], f"{door}: {name} is {dtype}, not {dtypes[name]}"
        assert array.shape == val.v.shape, f"{door}: {name} is {array.shape}, not {val.v.shape}"
        got, low, high = array.astype(np.float64), nearest(val.lo, dtype), nearest(val.hi, dtype)
        wrong = ~((low <= got) & (got <= high))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise AssertionError(
                f"{door}: {int(wrong.sum())} of {got.size} entries of {name} ({dtype}) are off; at {list(at)} it is "
                f"{got[at]!r}, the oracle says {val.v[at]!r} +- {val.e[at]:.3g}, {low[at]!r} to {high[at]!r}"
            )
        step = np.spacing(np.abs(nearest(val.v, dtype)).astype(array.dtype)).astype(np.float64)
        SHARPNESS["all"] += got.size
        SHARPNESS["sharp"] += int((high - low <= 2 * step + 2.0**-18 * np.abs(got)).sum())


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def same_bytes(found, wanted, door):
    assert set(found) == set(wanted), f"{door}: the names of the tensors"
    apart = [n for n in wanted if not same(found[n], wanted[n])]
    assert not apart, f"{door} gives other bytes: {apart}"


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
