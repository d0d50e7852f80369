"""The whole benchmark: `make bench`, or `python bench/run.py [--only NAME] [--rounds N] [--quick] [--write-readme]`.

Makes what it needs (checkpoints, and a venv for mergekit) under .cache/bench, measures section by section, writes
bench/results.json after each, and prints the tables. See bench/README.md for what they mean.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cases
import kernel
import switching
from agree import agree
from checkpoints import CACHE, SIZES, checkpoints, numbers, weight_bytes, weight_files
from measure import Case, Samples, clear, installed, measure, rounds, settle

import report

BENCH = Path(__file__).resolve().parent
OUTPUTS = 3  # times what a merge writes: the memory that is warm when it starts
RAM = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes


@dataclass(frozen=True)
class Settings:
    """What to measure: the size of the merge, the rows of the growth tables, rounds, and numbers for the kernel."""

    size: str
    models: tuple[str, tuple[int, ...]]
    sizes: tuple[str, ...]
    rounds: int
    growth_rounds: int
    method_rounds: int
    kernel: int
    switched: tuple[str, ...]
    results: Path
    peer: bool = True
    methods: tuple[str, ...] = ()  # these alone; all if none is named


FULL = Settings(
    size="1.1B",
    models=("300M", (1, 2, 4, 8)),
    sizes=("100M", "300M", "1.1B", "3B", "8B"),
    rounds=5,
    growth_rounds=3,
    method_rounds=2,
    kernel=kernel.NUMBERS,
    switched=(switching.ENCODER, "100M", "1.1B"),
    results=BENCH / "results.json",
)
QUICK = Settings(
    size="10M",
    models=("10M", (1, 3)),
    sizes=("10M", "100M"),
    rounds=1,
    growth_rounds=1,
    method_rounds=1,
    kernel=kernel.NUMBERS // 32,
    switched=("10M",),
    results=CACHE / "results-quick.json",
)


# --- sections -----------------------------------------------------------------------------------------------------


def data(size: str, tuned: int) -> dict[str, Any]:
    """Which checkpoints a row is about, and the bytes its merge reads and writes; makes them if they are missing."""
    home = checkpoints(size, tuned)
    read = sum(weight_bytes(home / m) for m in cases.models(tuned))
    return {"size": size, "tuned": tuned, "read": read, "written": weight_bytes(home / "base")}


def settled(about: dict[str, Any]) -> Callable[[], None]:
    """What happens ahead of each run: its inputs are read, and memory for OUTPUTS times its output is used."""
    inputs = [file for m in cases.models(about["tuned"]) for file in weight_files(CACHE / about["size"] / m)]
    memory = min(OUTPUTS * about["written"], RAM // 3)
    return lambda: settle(inputs if about["read"] < RAM // 2 else [], memory)


def sampled(s: Settings, every: list[Case], n: int, before: Callable[[], None] = lambda: None) -> Samples:
    """`rounds` of all of them, without the peer where it is not wanted."""
    return rounds([case for case in every if s.peer or case.argv[0] != cases.MERGEKIT], n, before)


def start(s: Settings) -> dict[str, Any]:
    return {"samples": sampled(s, cases.starts(), s.rounds)}


def merge(s: Settings) -> dict[str, Any]:
    about = data(s.size, 2)
    return {**about, "samples": sampled(s, cases.merges(CACHE / s.size), s.rounds, settled(about))}


def agreement(s: Settings) -> dict[str, Any] | None:
    home = checkpoints(s.size, 2)
    pair = [cases.ours(home), cases.mergekit(home)]
    if not s.peer or not all(installed(case) for case in pair):
        return None
    clear(pair[0])
    for case in pair:
        measure(case)
    a, b = (cases.output(home, name) for name in ("taskvec", "mergekit"))
    agreed = agree(a, b, [home / m for m in cases.models(2)])
    clear(pair[0])
    return {"size": s.size, **asdict(agreed)}


def kernels(s: Settings) -> dict[str, Any] | None:
    try:
        times = s.kernel // kernel.CACHED
        return {
            "bytes": 4 * 2 * s.kernel,
            "samples": kernel.against_memcpy(s.kernel),
            "cached": kernel.against_memcpy(kernel.CACHED, times),
        }
    except ImportError as missing:
        print(f"  left out: {missing}")
        return None


def grow(s: Settings, rows: list[tuple[str, int]]) -> dict[str, Any]:
    measured = []
    for size, tuned in rows:
        about = data(size, tuned)
        print(f"  {size} ({numbers(SIZES[size]) / 1e9:.2f}e9 numbers), {tuned} fine-tunes")
        pair = [cases.limit(CACHE / size, tuned), cases.ours(CACHE / size, tuned, flush=False)]
        measured.append({**about, "samples": rounds(pair, s.growth_rounds, before=settled(about))})
    return {"rows": measured}


def methods(s: Settings, size: str, tuned: int, n: int, peer: bool) -> dict[str, Any]:
    """Our linear merge, then each method, beside mergekit or alone, in one series of n rounds."""
    about, home = data(size, tuned), CACHE / size
    print(f"  {size}, {tuned} fine-tunes")
    each = [cases.ours(home, tuned, flush=False)]
    for name in s.methods or cases.METHODS:
        each += cases.by_method(home, name, tuned, peer)
    each += [cases.by_recipe(home, name, tuned) for name in cases.RECIPES if not s.methods]
    return {**about, "samples": sampled(s, each, n, settled(about))}


SECTIONS: dict[str, Callable[[Settings], dict[str, Any] | None]] = {
    "start": start,
    "merge": merge,
    "agree": agreement,
    "kernel": kernels,
    "methods": lambda s: methods(s, s.size, 2, s.method_rounds, peer=True),
    "methods-8": lambda s: methods(s, s.models[0], 8, s.rounds, peer=False),
    "search": lambda s: switching.measured(s.switched, s.rounds),
    "models": lambda s: grow(s, [(s.models[0], n) for n in s.models[1]]),
    "sizes": lambda s: grow(s, [(size, 2) for size in s.sizes]),
}

# --- the command --------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(": ")[1] for line in info if line.startswith("model name")), platform.machine())
    where = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", str(CACHE)], capture_output=True, text=True, check=False)
    packages = {name: installed_version(name) for name in ("taskvec", "numpy", "torch")}
    return {
        "CPU": f"{cpu} x {os.cpu_count()}",
        "RAM": f"{RAM / 2**30:.0f} GiB",
        "file system": where.stdout.strip(),
        "Linux": platform.release().split("-")[0],
        "Python": platform.python_version(),
        **packages,
        "mergekit": cases.MERGEKIT_PINS[0].split("==")[1],
    }


def installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure taskvec against the machine's limit and its peers.")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure this section (may be repeated)")
    parser.add_argument(
        "--method", choices=cases.METHODS, action="append", help="of the methods this one (may be repeated), for a look"
    )
    parser.add_argument("--rounds", type=int, help="rounds of every section (default: 5; 3 for models and sizes)")
    parser.add_argument("--quick", action="store_true", help="small models, one round: does it all run?")
    parser.add_argument("--no-mergekit", action="store_true", help="leave the peer out, and do not install it")
    parser.add_argument("--write-readme", action="store_true", help="measure nothing; put results.json into README.md")
    return parser.parse_args()


def settings(args: argparse.Namespace) -> Settings:
    s = replace(QUICK if args.quick else FULL, peer=not args.no_mergekit)
    if args.method:
        s = replace(s, methods=tuple(args.method), results=CACHE / "results-part.json")
    n = args.rounds
    return replace(s, rounds=n, growth_rounds=n, method_rounds=n) if n else s


def main() -> None:
    args = arguments()
    s = settings(args)
    results = json.loads(s.results.read_text()) if s.results.exists() else {}
    if args.write_readme:
        report.write_readme(BENCH / "README.md", results)
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    if not args.no_mergekit:
        cases.install_mergekit()
    results["machine"] = machine()
    for name in args.only or (["methods", "methods-8"] if args.method else SECTIONS):
        print(f"{name}:", flush=True)
        section = SECTIONS[name](s)
        if section:
            results[name] = section
            s.results.write_text(json.dumps(results, indent=1) + "\n")
    print("\n" + report.markdown(results))


if __name__ == "__main__":
    main()
