"""Packages: fetched once, checked at each use, read without being installed."""

import hashlib
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lab.archives import archive, package
from taskvec.errors import DataError
from taskvec.lab.packages import PACKAGES, Package, fetched, members, package_named, unpacked

KINDS = ("p.whl", "p.tgz", "p.tar.gz", pytest.param("p.deb", marks=pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")))  # fmt: skip
FILES = {"a/one.txt": "1", "a/two.txt": "zwei", "a/b/three.txt": "3", "four.txt": ""}


@pytest.mark.parametrize("name", KINDS)
def test_the_members_of_every_kind_of_archive_are_its_files(tmp_path, name):
    found = {path: content.decode() for path, content in members(archive(tmp_path / name, FILES))}
    assert found == FILES


def test_an_archive_is_fetched_once_and_lies_in_the_cache(tmp_path):
    source = archive(tmp_path / "there" / "p.tgz", FILES)
    for _ in range(2):
        kept = fetched(package(source), tmp_path / "cache")
        assert kept == tmp_path / "cache" / "packages" / "p.tgz" and kept.read_bytes() == source.read_bytes()
    assert (tmp_path / "there" / "p.tgz.fetched").read_text() == "x\n"
    assert [p.name for p in kept.parent.iterdir()] == ["p.tgz"], "nothing of the client is left"


@pytest.mark.parametrize("when", ["fetched", "kept"])
def test_an_archive_with_another_digest_is_refused_whenever_it_is_used(tmp_path, when):
    source = archive(tmp_path / "there" / "p.tgz", FILES)
    wanted = package(source, **({"sha256": "0" * 64} if when == "fetched" else {}))
    if when == "kept":
        fetched(wanted, tmp_path / "cache").write_bytes(b"other")
    with pytest.raises(DataError, match=r"p.tgz has the sha256 .*, and p 1 has .*: remove the file and run the same"):
        fetched(wanted, tmp_path / "cache")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("sh", "-c", "echo one >&2; echo none here >&2; echo WARNING: old >&2; exit 3"), "sh failed: none here"),
        (("sh", "-c", "exit 1"), "sh failed: no archive came"),
        (("sh", "-c", "echo > other.tgz"), "sh failed: no archive came"),
        (("no-such-client", "x"), "no-such-client is not installed"),
        ((sys.executable, "-c", "raise SystemExit('not found')"), "pip failed: not found"),
    ],
)  # fmt: skip
def test_why_there_is_no_archive_is_said_in_one_line(tmp_path, command, message):
    wanted = package(archive(tmp_path / "p.tgz", FILES), command=command)
    with pytest.raises(DataError) as error:
        fetched(wanted, tmp_path / "cache")
    assert str(error.value) == f"p 1 cannot be had: {message}"
    assert not (tmp_path / "cache" / "packages" / "p.tgz").exists()


def test_a_folder_of_an_archive_is_unpacked_once_and_nothing_else_of_it(tmp_path):
    evil = {"a/../out.txt": "out", "a/..": "up", "/a/root.txt": "root"}
    path = archive(tmp_path / "p.tgz", FILES | evil)
    folder = unpacked(path, "a", tmp_path / "cache" / "model")
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"one.txt": "1", "two.txt": "zwei"}
    path.unlink()
    assert unpacked(path, "a", folder) == folder, "the archive is not opened again"
    assert {p.name for p in tmp_path.rglob("*.txt")} == {"one.txt", "two.txt"}


def test_a_folder_that_an_archive_has_not_is_a_stated_error(tmp_path):
    with pytest.raises(DataError, match=r"p.whl has no files in z"):
        unpacked(archive(tmp_path / "p.whl", FILES), "z", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_deb_that_cannot_be_opened_is_a_stated_error(tmp_path):
    (tmp_path / "p.deb").write_bytes(b"no deb")
    with pytest.raises(DataError, match=r"p.deb cannot be opened with dpkg-deb"):
        next(members(tmp_path / "p.deb"))


def test_an_unknown_package_names_the_nearest():
    with pytest.raises(DataError, match=r"no package wordnet is known \(did you mean wordnet-base\?\)"):
        package_named("wordnet")
    assert package_named("wordnet-base").name == "wordnet-base"


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_is_pinned_by_version_digest_and_command(name):
    pinned = PACKAGES[name]
    assert pinned.name == name and re.fullmatch("[0-9a-f]{64}", pinned.sha256) and pinned.licence
    if pinned.command:
        assert any(pinned.version in word for word in pinned.command) and "/" not in pinned.archive
    assert not any(word in ("install", "-i", "--index-url") for word in pinned.command)


def test_a_file_of_an_installed_package_is_checked_and_not_fetched(tmp_path):
    import pytest as installed

    name, file = "pytest", "pytest/py.typed"
    sha256 = hashlib.sha256((Path(installed.__file__).parent / "py.typed").read_bytes()).hexdigest()
    wanted = Package(name, "any", file, sha256, (), "MIT")
    assert fetched(wanted, tmp_path / "cache") == Path(installed.__file__).parent / "py.typed"
    assert not (tmp_path / "cache").exists()
    with pytest.raises(
        DataError, match=r"py.typed has the sha256 .*, and pytest any has 0000.*install another version"
    ):
        fetched(replace(wanted, sha256="0" * 64), tmp_path)
    for changes in ({"name": "no-such-package"}, {"archive": "pytest/no.csv"}):
        with pytest.raises(DataError, match=r"is not installed: pip install "):
            fetched(replace(wanted, **changes), tmp_path)
