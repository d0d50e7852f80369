"""The house: imports point down only, no cycle, small rooms, and the public names are those that are promised."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import taskvec

ROOT = Path(taskvec.__file__).parent
ROOMS = (  # layer by layer: a room imports from its own layer and those above it in this list
    "version escapes ancestry globs",
    "errors rationals evidence dtypes executors source operations kernels kernels_numpy floats_numpy storage places "
    "coefficients rooms notes json_files quantised hints entries moving outputs staging copying yaml_files "
    "idle_patterns",
    "formats terms weights arrays derived views symmetries families permuted fitting integers",
    "methods recipe goals spaces subsets grains stores leases",
    "planning measures lineage sidecars blocks streaming collecting alignment mergekit batchnorm targets proofs "
    "disagreements",
    "engine live statistics report evals trials findings judging records measuring racing searching interference "
    "learning",
    "cli __main__",
)
LAYERS = {name: layer for layer, names in enumerate(ROOMS) for name in names.split()}
PUBLIC = {
    "Plan", "Saved", "Source", "Spec", "TaskvecError", "Weights", "__version__", "compare", "disentanglement",
    "entropy", "from_arrays", "knob", "layers", "layerwise", "learn", "load", "load_into", "match", "method", "only",
    "parse", "per", "permute", "plan", "save", "search", "stats", "verify", "without",
    "ablate", "arcee_fusion", "breadcrumbs", "consensus", "dare", "dare_ties", "della", "della_ties", "elect", "fisher",
    "freeze_conflicts", "geometric_median", "iso_c", "iso_cts", "karcher", "knots", "lines", "low_rank", "magmax",
    "metagpt", "model_stock", "multislerp", "nearswap", "norm_matched", "nuslerp", "patch", "pcb", "ram", "ramplus",
    "random_like", "regmean", "sce", "slerp", "stock", "svc", "ties", "trim", "tsv_m", "unified",
    "align_vocab", "as_model", "join", "pad_vocab", "rename", "resize_vocab", "select", "stack", "take_layers", "tie",
    "untie",
    "drop",
}  # fmt: skip
MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules of taskvec that a file imports, also within functions and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "taskvec":
            names = [node.module.split(".", 1)[1]] if "." in node.module else [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("taskvec.")}
    return found - {"_kernels"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_point_down(path):
    here = LAYERS[room(path)]
    upward = {name for name in imported(path) if LAYERS[name] > here or (LAYERS[name] == here and name == "__main__")}
    assert not upward, f"{path.name} (layer {here}) imports {upward}"


def test_no_import_cycle():
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        graph.setdefault(room(path), set()).update(imported(path) - {room(path)})
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done}:
        done |= ready
    assert done == graph.keys(), f"a cycle among {graph.keys() - done}"


def test_every_room_has_its_layer():
    assert {room(p) for p in MODULES} <= LAYERS.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_are_small_and_say_what_they_are_for(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module begins with its idea"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{node.name} has {node.end_lineno - node.lineno} lines"


def test_the_public_names_are_those_that_are_promised():
    assert set(taskvec.__all__) == PUBLIC == set(dir(taskvec))
    for name in PUBLIC:
        assert getattr(taskvec, name) is not None
        assert name == "__version__" or getattr(taskvec, name).__doc__, f"{name} has no docstring"


def test_every_method_of_a_recipe_has_a_public_name():
    from taskvec.methods import FUNCTIONS

    assert FUNCTIONS.keys() <= PUBLIC and all(getattr(taskvec, name) is f for name, f in FUNCTIONS.items())


def test_every_view_of_a_recipe_has_a_public_name():
    from taskvec.views import FUNCTIONS

    assert FUNCTIONS.keys() <= PUBLIC and all(getattr(taskvec, name) is f for name, f in FUNCTIONS.items())


def test_what_a_room_of_methods_holds_is_what_the_registry_says_it_holds():
    from taskvec.methods import ROOMS

    for room, names in ROOMS.items():
        module = importlib.import_module(room)
        made = [m.name for m in getattr(module, "METHODS", ())]
        assert sorted(made or names) == sorted(names), room


def test_a_recipe_that_calls_nothing_imports_no_method_and_no_view():
    code = (
        "import sys, numpy as np; from taskvec import from_arrays, methods, parse, views;"
        "a = from_arrays({'w': np.ones(2, np.float32)}); parse('0.5*a', a=a);"
        "print(sorted(sys.modules.keys() & {*methods.ROOMS, *views.ROOMS}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "[]", found.stderr


def test_importing_taskvec_imports_nothing_heavy():
    heavy = "{'numpy', 'torch', 'rich', 'click', 'blake3', 'matplotlib', 'transformers'}"
    code = f"import sys, taskvec; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_a_merge_of_files_needs_no_numpy_and_no_torch(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    code = (
        "import sys, taskvec as tv; a = tv.load('a.safetensors'); tv.save(0.5*a + 0.5*a, 'o.safetensors');"
        "print(sorted({'numpy', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
