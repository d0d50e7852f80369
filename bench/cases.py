"""The commands that are compared, as data. All compute base + sum of weight * (ft - base) from folders of one size.

Commands run in the folder of the checkpoints, so their arguments are the short names base, ft1, ft2, ...
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from checkpoints import CACHE, REPO
from measure import Case

BENCH = Path(__file__).resolve().parent
PYTHON = sys.executable
TASKVEC = str(Path(PYTHON).with_name("taskvec"))
MERGEKIT_VENV = CACHE / "mergekit-venv"
MERGEKIT = str(MERGEKIT_VENV / "bin" / "mergekit-yaml")
MERGEKIT_PINS = ("mergekit==0.1.5", "torch==2.13.0")

# Of ft1 ... ft8. No first few of them add up to 1: then the base would cancel out and we would not even read it.
WEIGHTS = (0.6, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.1)

LIMIT = "limit: cat inputs, cp base"
FLUSHED = "limit, then fsync"
OURS = "taskvec merge"
OURS_UNFLUSHED = "taskvec merge --no-fsync"
NAIVE = "naive torch script, fp32"
PEER = "mergekit, float32"
PEER_FAST = "mergekit, bfloat16, async"


def install_mergekit() -> None:
    """A venv for the peer, once. It pins its own versions of what we also use, so it cannot share ours."""
    stamp = MERGEKIT_VENV / "pins.txt"
    wanted = "\n".join(MERGEKIT_PINS) + "\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {' '.join(MERGEKIT_PINS)} (minutes)", flush=True)
    subprocess.run([PYTHON, "-m", "venv", str(MERGEKIT_VENV)], check=True)
    pip = [str(MERGEKIT_VENV / "bin" / "pip"), "install", "--quiet", "-c", str(REPO / "constraints.txt")]
    subprocess.run([*pip, *MERGEKIT_PINS], check=True)
    stamp.write_text(wanted)


def models(tuned: int) -> list[str]:
    """base, ft1, ... ft<tuned>."""
    return ["base", *(f"ft{i + 1}" for i in range(tuned))]


def output(home: Path, name: str) -> Path:
    """Where a command writes: beside the checkpoints, so on the same disk."""
    return home / "out" / name


def limit(home: Path, tuned: int = 2, flush: bool = False) -> Case:
    """Read every input byte once and write every output byte once, with the system's own tools, one after the other.

    cp must write the holes of a sparse input, as any merge of it does; it may not share extents."""
    out = output(home, "limit-flushed" if flush else "limit")
    folder = shlex.quote(str(out))
    steps = [
        f"cat {' '.join(f'{m}/*.safetensors' for m in models(tuned))} >/dev/null",
        f"mkdir -p {folder}",
        f"cp --sparse=never base/*.safetensors {folder}",
        *([f"sync {folder}/*"] if flush else []),
    ]
    return Case(FLUSHED if flush else LIMIT, ("sh", "-c", " && ".join(steps)), home, out)


def ours(home: Path, tuned: int = 2, flush: bool = True) -> Case:
    """Our command line, as a user would type it. Without `flush` a power cut can harm the output, as with cp."""
    terms = [f"{w}*({m} - base)" for w, m in zip(WEIGHTS, models(tuned)[1:], strict=False)]
    recipe = " + ".join(["base", *terms])
    out = output(home, "taskvec" if flush else "taskvec-unflushed")
    bound = [f"{m}={m}" for m in models(tuned)]
    words = ["merge", recipe, *bound, "-o", str(out), "--quiet", *([] if flush else ["--no-fsync"])]
    return Case(OURS if flush else OURS_UNFLUSHED, (TASKVEC, *words), home, out)


def naive(home: Path) -> Case:
    """bench/naive.py."""
    out = output(home, "naive")
    return Case(NAIVE, (PYTHON, str(BENCH / "naive.py"), *models(2), str(out)), home, out)


def mergekit(home: Path, fast: bool = False) -> Case:
    """mergekit's task_arithmetic, spared the model card, and the tokenizer that these checkpoints do not have.

    `fast` trades accuracy for speed (see the YAML) and writes while it computes."""
    name = "mergekit_fast" if fast else "mergekit"
    argv: tuple[str, ...] = (
        MERGEKIT,
        str(BENCH / f"{name}.yaml"),
        str(output(home, name)),
        "--quiet",
        "--no-copy-tokenizer",
    )
    argv += ("--no-write-model-card", *(["--async-write"] if fast else []))
    return Case(PEER_FAST if fast else PEER, argv, home, output(home, name))


def merges(home: Path) -> list[Case]:
    """All commands that merge a base and two fine-tunes."""
    return [
        limit(home),
        ours(home, flush=False),
        limit(home, flush=True),
        ours(home),
        naive(home),
        mergekit(home),
        mergekit(home, fast=True),
    ]


# ---- methods: the same YAML file for both, so the same semantics; and what our recipes alone can say --------------
METHODS = {  # name -> mergekit's parameters beside weight and models
    "ties": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "breadcrumbs": {"density": 0.5, "gamma": 0.01},
    "della": {"density": 0.5, "epsilon": 0.1},
    "slerp": {"t": 0.5},
}
RECIPES = {  # what YAML files cannot express: thresholds of the whole model, and the paper's rescaling
    "ties, whole model": "base + ties({taus}, density=0.5)",
    "ties, whole model, density 0.2": "base + ties({taus}, density=0.2)",
    "dare_ties, 1/(1-p)": "base + dare_ties({taus}, drop=0.5)",
}


def method_file(home: Path, method: str, tuned: int) -> Path:
    """A mergekit configuration beside the checkpoints: base and its fine-tunes, of slerp the first two of them."""
    names = models(tuned)[: 2 if method == "slerp" else None]
    entries = [{"model": f"./{n}", **({"parameters": {"weight": 0.5}} if n != "base" else {})} for n in names]
    config = {"merge_method": method, "base_model": "./base", "models": entries, "parameters": METHODS[method]}
    if method == "slerp":
        config["models"] = [{"model": f"./{n}"} for n in names]
    path = home / f"{method}-{tuned}.yml"
    path.write_text(json.dumps(config | {"dtype": "float32", "out_dtype": "bfloat16"}))  # JSON is YAML
    return path


def by_method(home: Path, method: str, tuned: int, peer: bool) -> list[Case]:
    """taskvec on a file of mergekit, and mergekit on the same file if `peer`."""
    file, out, theirs = method_file(home, method, tuned), output(home, "method"), output(home, "method-mergekit")
    compared = [Case(method, (TASKVEC, "merge", str(file), "-o", str(out), "--quiet", "--no-fsync"), home, out)]
    options = ("--quiet", "--no-copy-tokenizer", "--no-write-model-card")
    return compared + (
        [Case(f"{method}, mergekit", (MERGEKIT, str(file), str(theirs), *options), home, theirs)] if peer else []
    )


def by_recipe(home: Path, name: str, tuned: int) -> Case:
    """One of RECIPES, by taskvec."""
    names, out = models(tuned), output(home, "recipe")
    recipe = RECIPES[name].format(taus=", ".join(f"{n} - base" for n in names[1:]))
    words = ["merge", recipe, *(f"{n}={n}" for n in names), "-o", str(out), "--quiet", "--no-fsync"]
    return Case(name, (TASKVEC, *words), home, out)


PASS = "python -c pass"
IMPORT = "import taskvec"
HELP = "taskvec --help"
PEER_HELP = "mergekit-yaml --help"


def starts() -> list[Case]:
    """Commands that do nothing: the time that one waits before any work begins."""
    return [
        Case(PASS, (PYTHON, "-c", "pass"), BENCH),
        Case(IMPORT, (PYTHON, "-c", "import taskvec"), BENCH),
        Case(HELP, (TASKVEC, "--help"), BENCH),
        Case(PEER_HELP, (MERGEKIT, "--help"), BENCH),
    ]
