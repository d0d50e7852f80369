"""Run commands as child processes and measure what they cost: wall, CPU, and memory of their own.

Memory is the peak of RssAnon (with RssShmem: shared anonymous pages), summed over the process and its descendants and
read every POLL seconds. It counts the pages a process owns. RSS would also count the mapped pages of its input files,
which the system can take back.
"""

import mmap
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

POLL = 0.02  # seconds between two looks at the memory: more often, and the watcher itself takes time from the run
HELD = 12.0  # seconds: Linux hands free pages back to the host 2 s after others were freed, some in each pass
POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14 and later
BUSY = (0, 1, 2, 5, 6, 7)  # the fields of /proc/stat that are work: user, nice, system, irq, softirq, steal


@dataclass(frozen=True)
class Case:
    """A command to measure. `out`, where it writes, is removed before and after each run."""

    name: str
    argv: tuple[str, ...]
    cwd: Path
    out: Path | None = None


@dataclass(frozen=True)
class Sample:
    """One run: seconds on the clock, seconds of CPU (user + system, with children), peak RssAnon in bytes.

    `system`: the part of `cpu` spent in the kernel; far more of it than in other rounds means slow memory, not code.
    `others`: seconds of CPU that the machine spent elsewhere meanwhile, the kernel's write-back included. Read it
    before believing `wall`."""

    wall: float
    cpu: float
    system: float
    rss_anon: int
    others: float


Samples = dict[str, list[dict[str, float]]]  # case -> one dict of Sample's fields for each round


def descendants(pid: int) -> list[int]:
    """The process and all below it that are alive."""
    pids = [pid]
    for parent in pids:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                pids += [int(child) for child in (task / "children").read_text().split()]
    return pids


def rss_anon(pid: int) -> int:
    """RssAnon of one process now, and RssShmem, which is memory of its own as well; in bytes, 0 when it is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return 0


def busy() -> float:
    """Seconds of CPU that the whole machine has worked since boot."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[i]) for i in BUSY) / os.sysconf("SC_CLK_TCK")


class Peak(threading.Thread):
    """Watches the memory of a process tree until stopped."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.bytes, self.over = pid, 0, threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            self.bytes = max(self.bytes, sum(map(rss_anon, descendants(self.pid))))
            self.over.wait(POLL)


def measure(case: Case) -> Sample:
    """Run the command to its end. RuntimeError with the tail of what it printed, if it fails."""
    before, start = busy(), time.perf_counter()
    with subprocess.Popen(
        case.argv,
        cwd=case.cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as child:
        peak = Peak(child.pid)
        peak.start()
        try:
            printed = child.stdout.read() if child.stdout else b""
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)  # its own session: nobody but our child and its children
            raise
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        peak.over.set()
        peak.join()
    if child.returncode:
        raise RuntimeError(f"{case.name} exited with {child.returncode}:\n{printed.decode(errors='replace')[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    others = max(0.0, busy() - before - cpu)
    return Sample(round(wall, 4), round(cpu, 4), round(usage.ru_stime, 4), peak.bytes, round(others, 2))


def clear(case: Case) -> None:
    """Remove what an earlier run wrote, whole or not, and let the disk come to rest."""
    if case.out:
        shutil.rmtree(case.out.parent, ignore_errors=True)
        case.out.parent.mkdir(parents=True)
    os.sync()


def installed(case: Case) -> bool:
    """Whether the command's program is there; says so if not."""
    there = shutil.which(case.argv[0]) is not None
    if not there:
        print(f"  left out, not installed: {case.name}", file=sys.stderr)
    return there


def settle(files: Sequence[Path], memory: int) -> None:
    """Bring the files into the page cache, as far as they fit, and use and free `memory` bytes in huge pages.

    On a virtual machine a page that was never used, or was handed back, can cost seconds per GiB at first touch; what
    was just freed does not, so it is the same for whoever runs next. Freed page by page it would lie in pieces. The
    system hands back what is free some seconds after something was freed, so the memory is held until that is over:
    else it may be taken away in the middle of the run."""
    subprocess.run(["cat", *map(str, files)], stdout=subprocess.DEVNULL, check=True)
    with mmap.mmap(-1, memory, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        pages.madvise(mmap.MADV_HUGEPAGE)
        pages.madvise(POPULATE_WRITE)
        time.sleep(HELD)


def rounds(cases: Sequence[Case], n: int, before: Callable[[], None] = lambda: None) -> Samples:
    """Every case once a round (A B C A B C ...), so that a slow minute of the machine falls on all of them.

    `before` is called ahead of each run, not counted."""
    cases = [case for case in cases if installed(case)]
    samples: Samples = {case.name: [] for case in cases}
    for i in range(n):
        for case in cases:
            clear(case)
            before()
            sample = measure(case)
            clear(case)
            samples[case.name].append(asdict(sample))
            print(
                f"  {i + 1}/{n} {sample.wall:8.3f} s wall {sample.cpu:8.3f} s cpu ({sample.system:.2f} system,"
                f" others {sample.others:.2f}) {sample.rss_anon / 1e6:6.0f} MB  {case.name}",
                flush=True,
            )
    return samples


# --- what the samples say -----------------------------------------------------------------------------------------

Stat = tuple[float, float, float]  # median, min, max


def stat(values: Sequence[float]) -> Stat:
    return statistics.median(values), min(values), max(values)


def field(samples: Samples, case: str, key: str) -> list[float]:
    """One column of one case, in order of rounds."""
    return [sample[key] for sample in samples[case]]


def ratio(samples: Samples, case: str, to: str, key: str = "wall") -> Stat:
    """case / to, taken pair by pair within a round; median, min and max of the pairs."""
    return stat([a / b for a, b in zip(field(samples, case, key), field(samples, to, key), strict=True)])
