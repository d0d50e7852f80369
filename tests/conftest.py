"""Tiny real checkpoints on disk, and the real command line in a process of its own."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

SHAPES = {
    "model.embed.weight": (10, 4),
    "model.layers.0.mlp.weight": (8, 4),
    "model.layers.1.mlp.weight": (8, 4),
    "model.norm.weight": (4,),
}


# ---- what lies on the disk ------------------------------------------------------------------------
def tensors(seed, shapes=SHAPES, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def model(folder, content, shards=1):
    """A Hugging Face folder: weights in one file or in shards with an index, configuration, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names = list(content)
        files = {f"model-{k + 1:05d}-of-{shards:05d}.safetensors": names[k::shards] for k in range(shards)}
        for file, part in files.items():
            save_file({name: content[name] for name in part}, folder / file, metadata={"format": "pt"})
        table = {name: file for file, part in files.items() for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "float32"}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def raw(path, header, data=b""):
    """A safetensors file by hand: `header` as a dict or as the very bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def lora(folder, content, **config):
    """An adapter as PEFT saves it. content: the file's tensors by name."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(content, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return folder


def contents(folder):
    """Every file under a folder, hidden ones too: its relative path -> its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def build():
    return SimpleNamespace(tensors=tensors, model=model, raw=raw, lora=lora, contents=contents)


# ---- what runs ------------------------------------------------------------------------------------
TASKVEC = (sys.executable, "-m", "taskvec")
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


@pytest.fixture
def run(tmp_path):
    """run("merge", ...) -> code, stdout, stderr of the real command, started in tmp_path."""

    def taskvec(*arguments, **options):
        done = subprocess.run(
            [*TASKVEC, *map(str, arguments)], capture_output=True, text=True, timeout=120,
            **{"cwd": tmp_path, "env": ENVIRONMENT} | options,
        )  # fmt: skip
        return SimpleNamespace(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    return taskvec


def heeds_ctrl_c():
    """A shell's background jobs ignore SIGINT, and so would all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Process(subprocess.Popen):
    """The real command in the background. Leaving the `with` kills it."""

    def __init__(self, *arguments, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
        super().__init__([*TASKVEC, *map(str, arguments)], **pipes | {"preexec_fn": heeds_ctrl_c} | options)

    def __exit__(self, *error):
        self.kill()
        super().__exit__(*error)

    def pause_when(self, ready):
        """Stop the process as soon as `ready()`; False if it ended before."""
        while self.poll() is None:
            if ready():
                self.send_signal(signal.SIGSTOP)
                return self.poll() is None and ready()
            time.sleep(0.0005)
        return False

    def pause_at(self, out, size):
        """Stop the process once it has written `size` bytes of an output; False if it ended before."""
        return self.pause_when(lambda: staged_bytes(out) > size)

    def interrupt(self):
        """Ctrl-C, also to one that is stopped; its end."""
        self.send_signal(signal.SIGINT)
        return self.result()

    def result(self):
        """Let it go on; its code, stdout and stderr."""
        with contextlib.suppress(ProcessLookupError):
            self.send_signal(signal.SIGCONT)
        stdout, stderr = self.communicate(timeout=120)
        return SimpleNamespace(code=self.returncode, stdout=stdout, stderr=stderr)


@pytest.fixture
def start(tmp_path):
    return lambda *arguments, **options: Process(*arguments, **{"cwd": tmp_path} | options)


@pytest.fixture
def command(monkeypatch, capsys):
    """command("stats", ...) -> code, stdout, stderr of the command line, in this process."""

    def call(*words, folder):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["taskvec", *map(str, words)])
        code = 0
        try:
            from taskvec.cli import main

            main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, stdout=printed.out, stderr=printed.err)

    return call


def staged_bytes(out):
    """Bytes written of an output that is not whole yet; what is only reserved on the disk does not count."""
    return sum(map(written_bytes, out.with_name(f".{out.name}.taskvec").glob("files/*.safetensors")))


def written_bytes(path):
    found, at = 0, 0
    with path.open("rb") as file, contextlib.suppress(OSError):  # the end: no more data
        while True:
            begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found += at - begin
    return found


@pytest.fixture
def paused(start, tmp_path):
    """paused("merge", ..., "-o", "out") -> a Process that is stopped after some MB of its work."""

    def begin(*arguments, out="out", **options):
        for _ in range(10):
            process = start(*arguments, **options)
            if process.pause_at(tmp_path / out, 30 << 20) and staged_bytes(tmp_path / out) < 150 << 20:
                return process
            process.result()  # it was over, or nearly so, before we looked
            shutil.rmtree(tmp_path / out, ignore_errors=True)
        pytest.fail("ten times the work was done before it could be stopped")

    return begin


# ---- what a machine refuses -----------------------------------------------------------------------
@pytest.fixture
def disk(tmp_path):
    """disk("size=1m") -> a folder that is a file system of its own."""
    mounted = []

    def mount(options):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    try:
        yield mount
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def bound_by_permissions():
    """Options of a process for which the bits of a file count even if the tests run as root."""
    if os.geteuid():
        return {}
    libc = ctypes.CDLL(None, use_errno=True)
    drop = 24  # PR_CAPBSET_DROP, of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH

    def without_capabilities():
        for capability in (1, 2):
            if libc.prctl(drop, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")

    probe = subprocess.run(["cat", "/dev/null"], preexec_fn=without_capabilities, check=False)
    if probe.returncode:
        pytest.skip("runs as root and cannot give up its rights")
    return {"preexec_fn": without_capabilities}


@pytest.fixture(scope="session")
def big(tmp_path_factory):
    """Two models of 256 MB, slow enough to be caught in the middle."""
    home: Path = tmp_path_factory.mktemp("big")
    for seed, name in enumerate(("base", "math")):
        part = np.random.default_rng(seed).standard_normal(1 << 20).astype(np.float32)
        model(home / name, {f"layers.{k}.weight": np.roll(part, k).reshape(1024, 1024) for k in range(64)}, shards=2)
    yield home
    shutil.rmtree(home)
