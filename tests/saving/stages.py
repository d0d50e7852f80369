"""What the tests of the folder share in which an output grows: how such folders are opened, and some blocks."""

from contextlib import contextmanager

from taskvec.saving.outputs import Destination
from taskvec.saving.staging import Done, Staging

BLOCKS = [Done(0, (b"a" * 32, b"b" * 32), 0), Done(1, (b"c" * 32,), 1)]


def synced():
    """A function to make data durable that has nothing to do."""


def at(target, overwrite=False):
    return Destination(target, target.suffix == ".safetensors", overwrite)


@contextmanager
def stages(folder):
    """stage(key="k", name="out") -> the Staging of an output in a folder. All of them are closed at the end."""
    opened = []

    def stage(key="k", name="out", resume=True, overwrite=False):
        opened.append(Staging(at(folder / name, overwrite), key, resume, False))
        return opened[-1]

    yield stage
    for each in opened:
        each.close()
