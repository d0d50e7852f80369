"""A suite that trains in a second: a tiny random BERT, and tasks whose classes are told by the words of a text."""

import csv
import random
from pathlib import Path

from taskvec.lab.suite import Suite, suite_from

TOPICS = {
    "food": {"sweet": ("cake", "honey", "sugar", "jam"), "salty": ("cheese", "bacon", "olive", "chips")},
    "home": {"inside": ("sofa", "lamp", "carpet", "stove"), "outside": ("fence", "lawn", "shed", "gate")},
    "moves": {"fast": ("sprint", "race", "dash", "bolt"), "slow": ("stroll", "crawl", "creep", "drift")},
    "voices": {"loud": ("shout", "roar", "yell", "bang"), "quiet": ("whisper", "hush", "murmur", "sigh")},
}
DOMAINS = {  # one question, asked in two domains
    "films": {"good": ("superb", "moving", "gripping"), "bad": ("boring", "silly", "tedious")},
    "meals": {"good": ("tasty", "fresh", "crisp"), "bad": ("stale", "burnt", "soggy")},
}
TASKS = TOPICS | DOMAINS
CONTROL = "voices"
FILLERS = ("the", "a", "one", "this", "that", "is", "was", "here", "there", "now", "then", "very", "so", "and", "but")
COUNT = 160  # texts a task


def sentences(task: str) -> list[tuple[str, str]]:
    """(text, label), each text with two words of its class among fillers."""
    draw = random.Random(task)
    rows = []
    for k in range(COUNT):
        label = [*TASKS[task]][k % 2]
        words = [*draw.choices(FILLERS, k=5), *draw.sample(TASKS[task][label], 2)]
        draw.shuffle(words)
        rows.append((" ".join(words), label))
    return rows


def write_model(folder: Path) -> None:
    """A BERT of two layers of width 32 with random weights, and a tokenizer of whole words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    words = [word for task in TASKS.values() for of_class in task.values() for word in of_class]
    classes = [name for task in TASKS.values() for name in task]
    vocabulary = [*dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *words, *classes])]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32, hidden_dropout_prob=0.1, initializer_range=0.1,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


SUITE = """\
about: A tiny random encoder, and texts whose class is told by their words.
model: {{folder: model}}
evaluator: {{kind: classification, dtype: float32, max_tokens: 16, scale: 20, batch: 64}}
training: {{parameters: ["encoder.layer.*.weight"], epochs: 4, batch: 16, rate: 3.0e-3, decay: 0.01}}
splits: {{train: 64, validation: 24, test: 32}}
tasks:
{tasks}
experiments:
  negation: {{grid: "0:1:0.25", sensitivity: "0:2:0.5"}}
  addition: {{grid: "0:1:0.25", pairs_grid: "0:1:0.5", sensitivity: "0:2:0.5", improvement_grid: "0:0.5:0.25"}}
  analogies:
    domains: [films, meals]
    quadrants: {{moods: [films_good, films_bad, meals_good, meals_bad]}}
    grid: "0:1:0.5"
    several_grid: "0:1:1"
  methods: {{counts: [2], methods: [ties, magmax, random vector]}}
  discussion: {{few: [food, home], rates: [0.2, 1.0], shares: [0.25, 1.0], grid: "0:1:0.5", pairs: 1}}
  sequential: {{tasks: [food, home, moves], anew: 3, grid: "0.5:1:0.5"}}
  debiasing: {{sets: {{domain: {{groups: [films, meals], size: 40, skew: 0.95}}}}, grid: "0:2:0.5"}}
"""


def write_suite(folder: Path) -> Path:
    """The suite's file, with its model and data beside it."""
    write_model(folder / "model")
    lines = []
    for task, classes in TASKS.items():
        with (folder / f"{task}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("text", "label"))
            table.writerows(sentences(task))
        prompts = ", ".join(f"{name}: [{words[0]} {words[1]}]" for name, words in classes.items())
        role = "control" if task == CONTROL else "part" if task in DOMAINS else "task"
        lines.append(f"  {task}: {{about: {task}, data: {{file: {task}.csv}}, prompts: {{{prompts}}}, role: {role}}}")
    for task, classes in DOMAINS.items():
        prompts = ", ".join(f"{name}: [{name}]" for name in classes)
        for label in classes:
            data = f"{{file: {task}.csv, labels: [{label}]}}"
            lines.append(f"  {task}_{label}: {{about: {task}, data: {data}, prompts: {{{prompts}}}, role: part}}")
    path = folder / "tiny.yml"
    path.write_text(SUITE.format(tasks="\n".join(lines)))
    return path


def tiny_suite(folder: Path) -> Suite:
    """The suite, read."""
    return suite_from(str(write_suite(folder)))
