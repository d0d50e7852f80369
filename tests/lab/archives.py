"""Small archives of every kind that packages come in, and packages that a command of the tests fetches."""

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

from taskvec.lab.packages import Package


def tar_of(files):
    """The bytes of a tar of {path: content}."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def archive(path: Path, files):
    """An archive with these files, {path: text or bytes}, of the kind that the path's suffix says."""
    held = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.mkdir("folder")
            for name, content in held.items():
                zipped.writestr(name, content)
    elif path.suffix == ".deb":
        root = path.with_suffix("")
        held["DEBIAN/control"] = b"Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@m>\nDescription: d\n"
        for name, content in held.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, path], check=True, capture_output=True)
    else:
        path.write_bytes(tar_of(held))
    return path


def package(path: Path, **changes):
    """A package whose client copies this archive, and counts how often it does."""
    told = {
        "name": "p", "version": "1", "archive": path.name, "licence": "MIT",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "command": ("sh", "-c", f"cp '{path}' . && echo x >> '{path}.fetched'"),
    }  # fmt: skip
    return Package(**told | changes)
