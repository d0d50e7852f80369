"""The README is a contract: every block runs, in order, in one folder, as a reader would run it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.S | re.M)
DATA = """
import torch
from safetensors.torch import load_file

def math(path):
    tensors = load_file(f"{path}/model.safetensors")
    module = torch.nn.Module()
    for name, tensor in tensors.items():
        inner = module
        for part in name.split(".")[:-1]:
            inner = inner._modules.setdefault(part, torch.nn.Module())
        inner.weight = torch.nn.Parameter(tensor)

    def forward(ids):
        hidden = module.embed.weight[ids]
        for layer in module.layers.children():
            hidden = torch.tanh(hidden @ layer.self_attn.q.weight.T) @ layer.mlp.up.weight.T
        return hidden

    module.forward = forward
    return module.eval(), [{"ids": torch.arange(8)}]
"""
TASKS = """
def texts(weights, split):
    rows = weights["embed.weight"][:4] if split == "validation" else weights["embed.weight"][4:]
    right = {task: (rows[:, k] > 0).astype(float) for k, task in enumerate(("math", "code"))}
    return right | {"control": float(-abs(rows).max())}

texts.examples = lambda split: {task: [f"{split} {k}" for k in range(4)] for task in ("math", "code")}
"""
MODELS = ("org/base", "org/base-math", "org/base-code", "runs/toxic")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    names = ["embed.weight", *(f"layers.{k}.{part}.weight" for k in range(3) for part in ("self_attn.q", "mlp.up"))]
    base = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in names}
    for model in MODELS:
        tuned = {
            n: a + (model != "org/base") * 0.01 * rng.standard_normal(a.shape).astype("f4") for n, a in base.items()
        }
        (home / model).mkdir(parents=True)
        save_file(tuned, home / model / "model.safetensors")
    (home / "data.py").write_text(DATA)
    (home / "tasks.py").write_text(TASKS)
    return home


def test_every_python_block_runs_after_those_above_it(folder):
    script = "\n".join(block for language, block in BLOCKS if language == "python")
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == re.search(r"# (0\.5\*base .*)$", README, flags=re.M)[1]


def test_every_console_line_runs_after_those_above_it(folder):
    lines = [line for language, block in BLOCKS if language == "console" for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    for line in lines:
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.M), f"no target {words[1]}"
            continue
        assert words[0] == "taskvec"
        done = subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip()


def test_the_python_and_the_shell_line_of_the_first_screen_give_the_same_weights(folder):
    files = [folder / name / "model.safetensors" for name in ("edited", "edited-too")]
    by_python, by_shell = (f.read_bytes() for f in files)
    assert by_python[-7 * 256 :] == by_shell[-7 * 256 :]


def test_the_tree_in_the_readme_is_the_tree_on_disk():
    tree = next(block for language, block in BLOCKS if not language)
    named = set(re.findall(r"^  ([\w./]+) ", tree, flags=re.M))
    package = ROOT / "src" / "taskvec"
    there = {p.name + "/" * p.is_dir() for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert named == there - {"__main__.py", "version.py"}


PAGES = [
    "README.md",
    "CHANGELOG.md",
    "bench/README.md",
    "demo/README.md",
    *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.-])(?:src/taskvec|docs|tests|bench|demo)/[\w./-]*\w", text))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    linked = set(re.findall(r"\]\(([^)#:]+)[^):]*\)", text))
    assert [path for path in sorted(linked) if not ((ROOT / page).parent / path).exists()] == []


def test_no_file_names_a_machine_or_a_registry():
    if not (ROOT / ".git").exists():
        pytest.skip("which files are ours only the repository says")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "README.md" in listed.stdout.splitlines(), "these are not the files of the repository"
    suspicious = re.compile(r"/(?:root|home/\w+|work)/|pypi\.org|registry\.npmjs|deb\.debian")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".c", ".txt", ".yaml", ".yml") or path.name == "Makefile":
            match = suspicious.search(path.read_text(encoding="utf-8"))
            assert path == Path(__file__) or not match, f"{name}: {match[0]}"
