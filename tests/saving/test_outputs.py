"""Where an output goes, and what it may take the place of."""

import json
import os

import pytest

import taskvec as tv
from taskvec.errors import OutputError
from taskvec.saving.outputs import Destination, strangers


def place(target, overwrite=False, sources=(), alone=None):
    return Destination(target, target.suffix == ".safetensors" if alone is None else alone, overwrite, tuple(sources))


def refusal(*arguments, **more):
    with pytest.raises(OutputError) as error:
        place(*arguments, **more).require_writable()
    return str(error.value)


def test_nothing_and_an_empty_folder_can_become_the_output(tmp_path):
    place(tmp_path / "new/deep").require_writable()
    (tmp_path / "empty").mkdir()
    place(tmp_path / "empty").require_writable()
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_only_a_checkpoint_is_replaced_and_only_when_asked(tmp_path, build):
    build.model(tmp_path / "model", build.tensors(0))
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents/thesis.txt").write_text("years of work")
    place(tmp_path / "model", True).require_writable()
    assert "--overwrite" in refusal(tmp_path / "model")
    assert "--overwrite" in refusal(tmp_path / "documents")
    assert "no checkpoint" in refusal(tmp_path / "documents", True)
    (tmp_path / "model/notes.txt").write_text("what I thought of it")
    assert "notes.txt" in refusal(tmp_path / "model", True)
    assert "is a file" in refusal(tmp_path / "documents/thesis.txt", True, alone=False)
    assert "not a folder" in refusal(tmp_path / "documents/thesis.txt/x", True)
    (tmp_path / "folder.safetensors").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.safetensors", True)
    assert "is a folder" in refusal(tmp_path / "folder.safetensors")


def test_an_output_may_be_its_own_source_and_never_lie_around_one(tmp_path, build):
    model, file = build.model(tmp_path / "model", build.tensors(0)), tmp_path / "model/model.safetensors"
    place(model, True, [model]).require_writable()
    place(model, True, [file]).require_writable()
    inner = build.model(tmp_path / "model/inner", build.tensors(0))
    place(inner, True, [model]).require_writable()
    for source in (inner, inner / "model.safetensors"):
        assert str(inner) in refusal(model, True, [source])
    (tmp_path / "link").symlink_to(inner)
    assert str(inner) in refusal(model, True, [tmp_path / "link"])


def test_a_folder_around_the_working_directory_is_not_replaced(tmp_path, build, monkeypatch):
    build.model(tmp_path / "model", build.tensors(0))
    (tmp_path / "model/work").mkdir()
    monkeypatch.chdir(tmp_path / "model/work")
    assert "still needed" in refusal(tmp_path / "model", True)


@pytest.mark.parametrize("name", ["", ".", "./", "../here", "/"])
def test_the_working_directory_is_never_an_output(run, build, tmp_path, name):
    """An empty name meant it, and an empty folder was replaced under the feet of the shell."""
    build.model(tmp_path / "base", build.tensors(0))
    here = tmp_path / "here"
    here.mkdir()
    ran = run("merge", "b", f"b={tmp_path / 'base'}", "-o", name, cwd=here)
    assert ran.code == 1 and ran.stderr.startswith("error: ") and "Traceback" not in ran.stderr
    assert here.is_dir() and not list(here.iterdir()) and sorted(p.name for p in tmp_path.iterdir()) == ["base", "here"]


# ---- what is part of a checkpoint -----------------------------------------------------------------
THEIRS = ["tokenizer_training_data/corpus.txt", "my.model", "vocabulary-of-my-thesis.txt", "LICENSE_drafts/one.txt",
          "NOTICES.md", "config.json.bak", "train.py", "checkpoint-100/optimizer.pt", "1_Pooling/notes.txt",
          "additional_chat_templates/notes.txt", "model.safetensors/thesis.txt"]  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_what_only_looks_like_a_part_of_a_checkpoint_is_named_and_kept(tmp_path, build, run, name):
    build.model(tmp_path / "base", build.tensors(0))
    build.model(tmp_path / "out", build.tensors(1))
    if name.startswith("model.safetensors"):
        (tmp_path / "out/model.safetensors").unlink()
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    before = build.contents(tmp_path / "out")
    ran = run("merge", "b", "b=base", "-o", "out", "--overwrite")
    assert ran.code == 1 and name.split("/")[0] in ran.stderr and build.contents(tmp_path / "out") == before


@pytest.mark.parametrize("names", [["README.md"], ["README.md", "LICENSE", "config.json"], ["vocab.txt"],
                                   ["mine.safetensors"]])  # fmt: skip
def test_a_folder_without_weights_is_no_checkpoint(tmp_path, build, run, names):
    build.model(tmp_path / "base", build.tensors(0))
    (tmp_path / "out").mkdir()
    for name in names:
        (tmp_path / "out" / name).write_text("mine")
    before = build.contents(tmp_path / "out")
    ran = run("merge", "b", "b=base", "-o", "out", "--overwrite")
    assert ran.code == 1 and names[0] in ran.stderr and build.contents(tmp_path / "out") == before


def test_an_empty_folder_or_a_link_to_one_is_no_part_of_a_checkpoint(tmp_path, build):
    build.model(tmp_path / "out", build.tensors(1))
    (tmp_path / "out/logs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/1_Pooling").symlink_to(tmp_path / "elsewhere")
    assert strangers(tmp_path / "out") == ["1_Pooling/", "logs/"]


WHOLE = ["generation_config.json", "tokenizer.model", "vocab.json", "merges.txt", "LICENSE", "1_Pooling/config.json",
         "additional_chat_templates/tool_use.jinja", "README.md"]  # fmt: skip


@pytest.mark.parametrize("shards", [1, 2])
def test_an_ordinary_checkpoint_is_replaced(tmp_path, build, run, shards):
    build.model(tmp_path / "base", build.tensors(0))
    build.model(tmp_path / "out", build.tensors(1), shards=shards)
    for name in WHOLE:
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text("{}")
    assert strangers(tmp_path / "out") == []
    assert run("merge", "b", "b=base", "-o", "out", "--overwrite").code == 0
    assert not {*WHOLE} - {"README.md"} & {p.name for p in (tmp_path / "out").iterdir()}


def test_shards_of_any_name_count_where_an_index_names_them_and_others_do_not(tmp_path, build):
    build.model(tmp_path / "out", build.tensors(1), shards=2)
    index = tmp_path / "out/model.safetensors.index.json"
    table = json.loads(index.read_text())
    old = sorted(set(table["weight_map"].values()))
    for k, name in enumerate(old):
        (tmp_path / "out" / name).rename(tmp_path / f"out/part{k}.safetensors")
    assert strangers(tmp_path / "out") == ["part0.safetensors", "part1.safetensors"]
    table["weight_map"] = {t: f"part{old.index(n)}.safetensors" for t, n in table["weight_map"].items()}
    index.write_text(json.dumps(table))
    assert strangers(tmp_path / "out") == []
    (tmp_path / "out/my-lora.safetensors").touch()
    assert strangers(tmp_path / "out") == ["my-lora.safetensors"]


def test_what_taskvec_wrote_is_replaced_whatever_it_is_called_unless_it_was_changed(tmp_path, build, run):
    base = build.model(tmp_path / "base", build.tensors(0))
    (base / "tokenizer.of.mine.model").write_text("copied beside the weights")
    assert run("merge", "b", "b=base", "-o", "out").code == 0
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    record = json.loads((tmp_path / "out/taskvec.json").read_text())
    assert record["files"].keys() == names - {"model.safetensors", "taskvec.json"}
    assert "tokenizer.of.mine.model" in names and strangers(tmp_path / "out") == []
    assert run("merge", "b", "b=base", "-o", "out", "--overwrite").code == 0
    (tmp_path / "out/tokenizer.of.mine.model").write_text("changed by hand since")
    ran = run("merge", "b", "b=base", "-o", "out", "--overwrite")
    assert ran.code == 1 and "tokenizer.of.mine.model" in ran.stderr
    assert (tmp_path / "out/tokenizer.of.mine.model").read_text() == "changed by hand since"


@pytest.mark.parametrize(
    "record", [b"", b"\xff", b"[]", b'{"files": []}', b'{"files": {"thesis.txt": 1}}', b"[" * 9999]
)
def test_a_record_that_says_nothing_makes_nothing_part_of_a_checkpoint(tmp_path, build, record):
    build.model(tmp_path / "out", build.tensors(1))
    (tmp_path / "out/thesis.txt").write_text("mine")
    (tmp_path / "out/taskvec.json").write_bytes(record)
    assert strangers(tmp_path / "out") == ["thesis.txt"]


def test_a_page_takes_the_place_of_a_link_and_not_of_what_it_leads_to(tmp_path):
    (tmp_path / "keys").write_text("keys")
    (tmp_path / "r.html").symlink_to("keys")
    assert Destination.of_file(tmp_path / "r.html").target == tmp_path / "r.html"
    assert "exists" in refusal(tmp_path / "r.html", alone=True)


def test_a_path_that_is_not_utf_8_is_read_and_written(tmp_path, build, run):
    """It was only at the end, after all the work, that a text with such a name could not be written."""
    odd = tmp_path / os.fsdecode(b"b\xffse")
    try:
        build.model(odd, build.tensors(0))
    except OSError:
        pytest.skip("this file system wants UTF-8")
    for out in (tmp_path / os.fsdecode(b"\xfeout"), tmp_path / os.fsdecode(b"\xfeout.safetensors")):
        done = run("merge", "b", f"b={odd}", "-o", str(out))
        assert done.code == 0, done.stderr
        assert tv.verify(out).tensors == 4
        assert run("show", str(out)).code == run("log", str(out)).code == run("verify", str(out)).code == 0
        assert run("merge", "b", f"b={odd}", "-o", str(out)).stderr.startswith("error: ")
    record = json.loads((tmp_path / os.fsdecode(b"\xfeout") / "taskvec.json").read_text(encoding="utf-8"))
    assert record["inputs"]["b"]["uri"] == str(odd)


def test_a_picture_takes_the_place_of_a_link_and_not_of_what_it_leads_to(tmp_path):
    from matplotlib.figure import Figure

    from taskvec.report.plots import write_picture

    (tmp_path / "keys").write_text("keys")
    (tmp_path / "p.svg").symlink_to("keys")
    write_picture(Figure(), tmp_path / "p.svg")
    assert (tmp_path / "keys").read_text() == "keys" and not (tmp_path / "p.svg").is_symlink()
    assert "<svg" in (tmp_path / "p.svg").read_text()
    write_picture(Figure(), tmp_path / "no-suffix")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys", "no-suffix.png", "p.svg"]
    with pytest.raises(OutputError, match="docx"):
        write_picture(Figure(), tmp_path / "p.docx")


@pytest.mark.parametrize("verb", ["search", "learn"])
def test_an_output_that_cannot_be_written_is_refused_before_a_search_begins(tmp_path, build, run, verb):
    """And not after it: what it found would be lost."""
    build.model(tmp_path / "base", build.tensors(0))
    build.model(tmp_path / "a", build.tensors(1))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    ran = run(
        verb,
        "base + x*(a - base)",
        "base=base",
        "a=a",
        "--evaluate",
        "none.py:size",
        "--journal",
        "j.jsonl",
        "-o",
        "out",
    )
    assert ran.code == 1 and "out exists and is not empty" in ran.stderr and not (tmp_path / "j.jsonl").exists()
