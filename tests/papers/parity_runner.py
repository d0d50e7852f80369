"""Run by mergekit's own Python: merges every configuration of a folder, in one process, and notes what failed.

python parity_runner.py CONFIGS OUTPUTS
"""

import sys
import traceback
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions


def main() -> None:
    configs, outputs = map(Path, sys.argv[1:])
    options = MergeOptions(quiet=True, copy_tokenizer=True, write_model_card=False, random_seed=1)
    for path in sorted(configs.glob("*.yml")):
        out = outputs / path.stem
        try:
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(path.read_text())), str(out), options)
        except Exception:
            (outputs / f"{path.stem}.error").write_text(traceback.format_exc())


if __name__ == "__main__":
    main()
