"""Make the demo's task vectors, `make demo-vectors`: about two minutes a task on two cores.

    python demo/train.py [--force] [TASK ...]     # a task whose vector exists is skipped, unless --force

finetune.py is the recipe; adapter.py factors and writes; data.py, readers.py and splits.py bring the texts.
"""

from entry import run

if __name__ == "__main__":
    run("finetune")
