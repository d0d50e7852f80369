"""One tiny suite and one finished run of it, which the tests of the lab share. They run on one thread."""

import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from lab.tiny import write_suite
from taskvec.lab.bench import Bench
from taskvec.lab.experiments import EXPERIMENTS
from taskvec.lab.run import run as run_experiments
from taskvec.lab.suite import suite_from

SEEDS = 3


@contextmanager
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def threads():
    with one_thread():
        yield


@pytest.fixture(scope="session")
def suite_file(tmp_path_factory):
    """The suite's file, with its model and data beside it. Tests that change something take a copy (`own_suite`)."""
    return write_suite(tmp_path_factory.mktemp("lab") / "suite")


@pytest.fixture
def own_suite(suite_file, tmp_path):
    """A copy of the suite's file, model and data, which a test may change."""
    shutil.copytree(suite_file.parent, tmp_path / "suite")
    return tmp_path / "suite" / suite_file.name


@pytest.fixture(scope="session")
def finished(suite_file, tmp_path_factory):
    """All experiments with three seeds: the suite, the folder of results, the cache, and what `run` gave."""
    home = tmp_path_factory.mktemp("finished")
    told = []
    with one_thread():
        suite = suite_from(str(suite_file))
        result = run_experiments(
            [e.name for e in EXPERIMENTS], suite, SEEDS, home / "out", home / "cache", lambda *said: told.append(said)
        )
    return SimpleNamespace(suite=suite, folder=home / "out", cache=home / "cache", result=result, told=told)


@pytest.fixture(scope="module")
def bench(finished, tmp_path_factory):
    """A bench with the vectors of the finished run and a new journal."""
    return Bench(finished.suite, range(SEEDS), tmp_path_factory.mktemp("bench"), finished.cache)
