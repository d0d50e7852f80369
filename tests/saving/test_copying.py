"""The files beside the weights: which are copied, which are not, and that they are those that were looked at."""

import os
import shutil

import pytest

from taskvec.errors import FormatError, SourceChanged
from taskvec.saving import copying
from taskvec.saving.copying import LARGEST, copy, survey

FILES, FOLDERS = ("tokenizer*", "*.json", "LICENSE*"), ("[0-9]_*",)


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "m"
    (home / "1_Pooling").mkdir(parents=True)
    for name in ("tokenizer.json", "1_Pooling/config.json", "LICENSE"):
        (home / name).write_text(name)
    (home / "weights.bin").write_text("not wanted")
    return home


def names(surveyed):
    return [file.name for file in surveyed[0]]


def test_what_fits_a_pattern_is_copied_with_its_folders(folder, tmp_path):
    files, left = survey(folder, FILES, FOLDERS)
    assert [file.name for file in files] == ["1_Pooling/config.json", "LICENSE", "tokenizer.json"] and not left
    copy(files, tmp_path / "out", durable=True)
    for file in files:
        assert (tmp_path / "out" / file.name).read_bytes() == (folder / file.name).read_bytes()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("{outside}/secret", "a link that leads out of the folder, to {outside}/secret"),
        ("../secret/secret", "a link that leads out of the folder"),
        ("/proc/self/environ", "leads out of the folder"),
        ("/dev/zero", "leads out of the folder"),
        ("{outside}", "a link to a folder"),
        (".", "a link to a folder"),
    ],
)
def test_a_link_that_leads_elsewhere_is_left_out_and_named(folder, tmp_path, target, why):
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "secret").write_text("hunter2")
    (folder / "tokenizer_config.json").symlink_to(target.format(outside=outside))
    files, (left,) = survey(folder, FILES, FOLDERS)
    assert "tokenizer_config.json" not in names((files, left))
    assert str(folder / "tokenizer_config.json") in left and why.format(outside=outside) in left


def test_folders_that_hold_themselves_come_to_an_end(folder):
    for name in "ab":
        (folder / "1_Pooling" / name).symlink_to(".")
    files, left = survey(folder, FILES, FOLDERS)
    assert names((files, left)) == ["1_Pooling/config.json", "LICENSE", "tokenizer.json"] and len(left) == 2


def test_folders_within_folders_have_a_bound(folder):
    deep = folder / "1_Pooling" / "/".join("abcdef")
    deep.mkdir(parents=True)
    (deep / "x").write_text("")
    files, (left,) = survey(folder, FILES, FOLDERS)
    assert "too deep" in left and "x" not in "".join(names((files, left)))


def test_the_number_of_files_has_a_bound(folder, monkeypatch):
    monkeypatch.setattr(copying, "COUNT", 2)
    files, (left,) = survey(folder, FILES, FOLDERS)
    assert len(files) == 2 and "one file too many" in left


def test_pipes_and_files_of_any_size_are_left_out(folder):
    os.mkfifo(folder / "tokenizer.fifo")
    (folder / "tokenizer.large").touch()
    os.truncate(folder / "tokenizer.large", LARGEST + 1)
    files, left = survey(folder, FILES, FOLDERS)
    assert names((files, left)) == ["1_Pooling/config.json", "LICENSE", "tokenizer.json"]
    assert "no regular file" in left[0] and "268,435,457 bytes, more than 268,435,456" in left[1]


def test_a_snapshot_of_the_hub_is_links_to_its_blobs(folder, tmp_path):
    home = tmp_path / "models--org--name"
    snapshot = home / "snapshots/abc"
    (snapshot / "1_Pooling").mkdir(parents=True)
    (home / "blobs").mkdir()
    for k, name in enumerate(("tokenizer.json", "1_Pooling/config.json")):
        shutil.copy(folder / name, home / "blobs" / str(k))
        up = "../" * (name.count("/") + 2)
        (snapshot / name).symlink_to(f"{up}blobs/{k}")
    files, left = survey(snapshot, FILES, FOLDERS)
    assert names((files, left)) == ["1_Pooling/config.json", "tokenizer.json"] and not left
    files, left = survey(snapshot / "1_Pooling", FILES)  # a component within a snapshot
    assert names((files, left)) == ["config.json"] and not left
    copy(files, tmp_path / "out", durable=False)
    assert (tmp_path / "out/config.json").read_text() == "1_Pooling/config.json"
    assert not (tmp_path / "out/config.json").is_symlink()


def test_a_link_within_the_folder_and_a_folder_that_is_a_link_are_fine(folder, tmp_path):
    (folder / "LICENSE.txt").symlink_to("LICENSE")
    (tmp_path / "link").symlink_to("m")
    files, left = survey(tmp_path / "link", FILES, FOLDERS)
    assert names((files, left)) == ["1_Pooling/config.json", "LICENSE", "LICENSE.txt", "tokenizer.json"] and not left


@pytest.mark.parametrize(("target", "why"), [("gone", "does not exist"), ("LICENSE.loop", "leads in a circle")])
def test_a_link_that_leads_nowhere_is_an_error(folder, target, why):
    (folder / "LICENSE.loop").symlink_to(target)
    with pytest.raises(FormatError, match=f"LICENSE.loop: .*{why}"):
        survey(folder, FILES)


def rewritten(path):
    """Other bytes of the same length, and the time of change put back."""
    before = path.stat()
    path.write_text("x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [rewritten, lambda p: p.write_text("more than before"), lambda p: p.unlink()],
    ids=["in_place", "longer", "gone"],
)
def test_a_file_that_changes_after_the_survey_is_noticed(folder, tmp_path, change):
    files, _ = survey(folder, FILES)
    change(folder / "tokenizer.json")
    with pytest.raises(SourceChanged, match=r"tokenizer\.json (changed|vanished) while .*nothing was written"):
        copy(files, tmp_path / "out", durable=False)


def test_a_file_that_becomes_a_link_after_the_survey_is_not_followed(folder, tmp_path):
    files, _ = survey(folder, FILES)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/etc/passwd")
    with pytest.raises((SourceChanged, FormatError)):
        copy(files, tmp_path / "out", durable=False)
    assert not (tmp_path / "out/tokenizer.json").exists()
