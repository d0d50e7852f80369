"""mergekit's own end-to-end tests, run against our engine: `make test-peer`.

They are LGPL, so they are never part of this repository: the source package is unpacked under .cache, and
`run_merge(config, out, options)`, the door that they all go through, is replaced by `taskvec merge`. What is not run is
listed in SKIPPED with the reason.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "bench"))
from cases import MERGEKIT, TASKVEC, install_mergekit  # noqa: E402
from checkpoints import CACHE  # noqa: E402

PIN = "mergekit==0.1.5"
CHOSEN = (  # the tests that go through the door; the others are about mergekit's inside
    "test_basic_merges.py", "test_tokenizer.py", "test_chat_template.py",
    "test_merge_dtypes.py::test_yaml_mixed_checkpoint_precisions",
    "test_vocabulary_axis.py::test_phi_alignment_reorders_and_resizes_biases",
)  # fmt: skip
SKIPPED = {
    "test_vocabulary_axis.py::test_phi_truncation_handles_output_bias": "--unsafe-truncate-embeddings, which cuts "
    "vocabularies without a look at the tokens, is not offered: resize_vocab says it openly",
    "test_embedding_truncation.py": "the same option (and the message of another refusal)",
}


def unpacked() -> Path:
    """The tests' folder, without mergekit's own conftest, with ours."""
    home = CACHE.parent / "peer-tests"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "-d",
        str(home),
        PIN,
    ]
    subprocess.run(pip, check=True)
    with tarfile.open(next(home.glob("*.tar.gz"))) as archive:
        archive.extractall(home, filter="data")
    tests = next(home.glob("mergekit-*/tests"))
    shutil.copyfile(HERE / "common.py", tests / "common.py")
    (tests / "__init__.py").touch()
    (tests / "conftest.py").write_text(
        "import mergekit.merge\nfrom tests.common import merge\nmergekit.merge.run_merge = merge\n"
    )
    return tests


def main() -> None:
    install_mergekit()
    python = Path(MERGEKIT).with_name("python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "pytest"], check=True)
    tests = unpacked()
    print("left out:", *(f"  {name}: {why}" for name, why in SKIPPED.items()), sep="\n", flush=True)
    environment = {**os.environ, "TASKVEC": TASKVEC, "HF_HUB_OFFLINE": "1"}
    chosen = [f"tests/{name}" for name in CHOSEN]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:warnings"]
    done = subprocess.run([python, "-m", "pytest", *options, *chosen], cwd=tests.parent, env=environment, check=False)
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
