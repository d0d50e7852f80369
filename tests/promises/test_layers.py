"""Each folder imports only from those below it, there are no circles of imports, files are small, and the public names
are those that are promised.
"""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import taskvec
from taskvec.numbers import compiled

ROOT = Path(taskvec.__file__).parent
TESTS = Path(__file__).parents[1]
ORDER = (  # lowest first; a folder or file of the first level may import only from the lines above its own
    "errors version lazy notes escapes",
    "numbers",
    "executors",
    "places",
    "sources",
    "formats",
    "algebra",
    "views",
    "methods",
    "recipes",
    "saving",
    "analysis",
    "live",
    "evals",
    "searching",
    "report",
    "lab",
    "cli",
    "__main__",
)
HEIGHT = {name: height for height, names in enumerate(ORDER) for name in names.split()}
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
ASKING = "sources formats algebra views methods recipes saving analysis live"  # the folders that work with sources
OF_OTHERS = {  # what may be asked of things that are no sources, by its name
    "os": "O_CLOEXEC O_NONBLOCK O_NOFOLLOW geteuid",
    "an error": "filename errno",
    "a function, a class or a module": "__module__ __qualname__ __version__",
    "the memory of a thread": "tiles size",
    "an array, or a number": "ndim requires_grad",
    "a node of Python's syntax": "lineno col_offset",
    "a factor of a coefficient": "depth",
    "what a user's function returns": "__iter__ logits",
    "a source of a user's own class": "statistic",
}
MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def dotted(path: Path) -> str:
    """The name of a module within taskvec: saving/save.py is "saving.save", saving/__init__.py is "saving"."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(path): path for path in MODULES}


def imported(path: Path) -> set[str]:
    """The modules of taskvec that a file imports, also within functions and for type checking only."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "taskvec":
            package = node.module.partition(".")[2]
            for name in (f"{package}.{alias.name}".strip(".") for alias in node.names):
                names.add(name if name in NAMES else package)
        elif isinstance(node, ast.Import):
            names |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("taskvec.")}
    assert names <= NAMES.keys(), f"{path} imports {names - NAMES.keys()}, which are no modules"
    return names


def test_a_folder_imports_only_from_those_below_it():
    upward = [
        f"{name} imports {other}"
        for name, path in NAMES.items()
        for other in imported(path)
        if (here := name.split(".")[0]) != (there := other.split(".")[0]) and HEIGHT[there] >= HEIGHT[here]
    ]
    assert not upward, upward


def test_no_file_imports_one_that_imports_it_directly_or_through_others():
    graph = {name: imported(path) - {name} for name, path in NAMES.items()}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done}:
        done |= ready
    assert done == graph.keys(), f"circles among {sorted(graph.keys() - done)}"


def test_what_a_source_can_do_is_asked_for_by_name_and_never_guessed():
    """Abilities are asked for by isinstance with a class of sources/abilities.py, and not by getattr or hasattr."""
    allowed = " ".join(OF_OTHERS.values()).split()
    guessed = [
        f"{name}, line {node.lineno}: {ast.unparse(node)}"
        for name, path in NAMES.items()
        if name.split(".")[0] in ASKING.split()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr")
        and isinstance(node.args[1], ast.Constant) and node.args[1].value not in allowed
    ]  # fmt: skip
    assert not guessed, guessed


def test_every_folder_has_its_height():
    assert {name.split(".")[0] for name in NAMES} == HEIGHT.keys()


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in MODULES} - {ROOT}), ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_folder_says_what_each_of_its_files_is_for(folder):
    """The docstring of its __init__.py has a line for each file."""
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    there = {p.name for p in folder.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"^(\w+\.py) ", docstring, flags=re.M)) == there


def test_every_module_has_tests_under_its_name():
    """saving/plan.py is tested in tests/saving/test_plan.py, whatever else tests it."""
    without = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.stem not in ("__init__", "__main__", "version")
        and not (TESTS / path.relative_to(ROOT).with_name(f"test_{path.name}")).is_file()
    ]
    assert not without, without


def test_tests_lie_where_their_modules_lie():
    """tests/saving/test_plan.py is of saving/plan.py, and tests/cli/test_cli.py of all of cli/. In test_contract.py is
    what everything passes that implements the protocol of a folder. What crosses folders is in laws, papers, promises,
    oracle and peer."""
    across = {"laws", "papers", "promises", "oracle", "peer"}
    stray = [
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if (parts := path.relative_to(TESTS).parts)[0] not in across
        and not (ROOT.joinpath(*parts[:-1]) / parts[-1].removeprefix("test_")).is_file()
        and parts[-1] not in (f"test_{parts[-2]}.py", "test_contract.py")
    ]
    assert not stray, stray


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_small_and_say_what_they_are_for(path):
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


def test_a_module_of_methods_has_the_methods_that_the_registry_says():
    from taskvec.methods import MODULES as HOMES

    for module_name, names in HOMES.items():
        module = importlib.import_module(module_name)
        made = [m.name for m in getattr(module, "METHODS", ())]
        assert sorted(made or names) == sorted(names), module_name


def test_a_recipe_that_calls_nothing_imports_no_method_and_no_view():
    code = (
        "import sys, numpy as np; from taskvec import from_arrays, methods, parse, views;"
        "a = from_arrays({'w': np.ones(2, np.float32)}); parse('0.5*a', a=a);"
        "print(sorted(sys.modules.keys() & {*methods.MODULES, *views.MODULES}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


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
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plan_of_plain_models_imports_no_reader_of_adapters_and_nothing_for_errors(tmp_path):
    """A quarter of the time that `taskvec plan` takes to start."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"w": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    idle = {"taskvec.formats.peft", "taskvec.formats.adapter_config", "hashlib", "difflib", "shutil", "html"}
    idle |= {"taskvec.numbers.in_numpy", "taskvec.numbers.floats"} if compiled.AVAILABLE else set()
    code = (
        "import sys; from taskvec.cli import taskvec; taskvec(['plan', 'a', 'a=a.safetensors'], standalone_mode=False);"
        f"print(sorted({idle} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
