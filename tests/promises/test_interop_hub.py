"""Names of the Hugging Face hub are found in its local cache."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from transformers import AutoModelForCausalLM

from promises.other_libraries import assert_loads_as, eager_merge, llama, taskvec, write_models


def cached(home: Path, name: str, folder: Path, revision: str = "main") -> dict[str, str]:
    """Put a folder into a cache as huggingface_hub keeps it, links to blobs; the environment that finds it, offline."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    commit = revision.encode().hex().ljust(40, "0")
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (repository / part).mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    for file in folder.iterdir():
        blob = repository / "blobs" / f"{revision}-{file.name}"
        blob.write_bytes(file.read_bytes())
        (repository / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{blob.name}")
    return {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": ""}


def python(code: str, env: Mapping[str, str]) -> str:
    """What a fresh interpreter prints: huggingface_hub reads its environment once, when it is imported."""
    clean = {k: v for k, v in {**os.environ, **env}.items() if v}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    return ran.stdout


def test_a_name_of_the_hub_is_found_in_the_local_cache(tmp_path: Path) -> None:
    base, tuned = write_models(tmp_path, lambda: llama(True))
    env = cached(tmp_path / "cache", "org/name", tmp_path / "base")
    cached(tmp_path / "cache", "org/name", tmp_path / "tuned", "v2")
    code = (
        "import taskvec as tv; base = tv.load('org/name'); tuned = tv.load('org/name', revision='v2');"
        f"tv.save(base + 0.4*(tuned - base), {str(tmp_path / 'out')!r}); print(base, tuned, sep='\\n')"
    )
    assert python(code, env).splitlines() == ['load("org/name")', 'load("org/name", revision="v2")']
    expected = eager_merge(base.state_dict(), tuned.state_dict(), 0.4)
    assert_loads_as(tmp_path / "out", AutoModelForCausalLM, expected, tmp_path / "base")
    assert not (tmp_path / "out" / "config.json").is_symlink()
    record = json.loads((tmp_path / "out" / "taskvec.json").read_text())
    assert {source["uri"] for source in record["inputs"].values()} == {"org/name"}
    assert {source.get("revision") for source in record["inputs"].values()} == {None, "v2"}


def test_the_command_line_takes_names_of_the_hub(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True))
    env = cached(tmp_path / "cache", "org/name", tmp_path / "base")
    clean = {k: v for k, v in env.items() if v}
    taskvec("negate", "org/name", tmp_path / "tuned", "-o", tmp_path / "out", env=clean)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.model_type == "llama"


def test_a_name_that_is_neither_here_nor_in_the_cache_is_a_stated_error(tmp_path: Path) -> None:
    write_models(tmp_path, lambda: llama(True))
    env = {k: v for k, v in cached(tmp_path / "cache", "org/name", tmp_path / "base").items() if v}
    message = taskvec("merge", "base", "base=org/other", "-o", tmp_path / "out", env=env, fails=True)
    assert message.startswith("error: ") and "org/other is no local path" in message and "Traceback" not in message
    assert not (tmp_path / "out").exists()
