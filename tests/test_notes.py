"""Notes: Python warnings for callers, kept for the command line."""

import json
import threading
import warnings

import pytest

from taskvec.notes import Note, collected, note, so_far


def test_a_note_is_a_warning_at_the_line_of_the_caller():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        note("the adapter changes nothing")
    assert [(w.category, str(w.message), w.filename) for w in caught] == [
        (Note, "the adapter changes nothing", __file__)
    ]


def test_a_note_can_be_made_an_error():
    with warnings.catch_warnings(), pytest.raises(Note, match="the adapter"):
        warnings.simplefilter("error", Note)
        note("the adapter changes nothing")


def test_notes_are_collected_in_order_each_once_and_told_at_once():
    at_once = []
    with warnings.catch_warnings(record=True) as caught, collected(at_once.append) as notes:
        for text in ("b", "a", "b"):
            note(text)
        assert so_far() == ["b", "a"] == at_once
    assert (list(notes), caught, so_far()) == (["b", "a"], [], [])


def test_notes_of_other_threads_are_collected_too():
    with collected() as notes:
        threads = [threading.Thread(target=note, args=(str(k % 3),)) for k in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(notes) == ["0", "1", "2"]


def test_an_inner_collector_takes_what_is_said_within_it():
    with collected() as outer:
        with collected() as inner:
            note("inner")
        note("outer")
    assert (list(outer), list(inner)) == (["outer"], ["inner"])


def test_the_command_line_prints_notes_and_puts_them_into_json(tmp_path, build, run):
    for seed, name in enumerate("ab"):
        build.model(tmp_path / name, build.tensors(seed))
    models = "".join(f"  - {{model: {name}, parameters: {{weight: 1}}}}\n" for name in "ab")
    (tmp_path / "mean.yml").write_text(f"merge_method: linear\nmodels:\n{models}parameters: {{density: 0.5}}\n")
    plain = run("merge", "mean.yml", "-o", "plain")
    assert (plain.code, plain.stderr.count("note: ")) == (0, 1) and "density has no effect" in plain.stderr
    machine = run("merge", "mean.yml", "-o", "machine", "--json")
    (text,) = json.loads(machine.stdout)["notes"]
    assert "density has no effect" in text and machine.stderr == f"note: {text}\n"
    silent = run("merge", "mean.yml", "-o", "silent", "-q")
    assert (silent.code, silent.stdout, silent.stderr) == (0, "", "")


def test_what_steers_a_terminal_is_shown_as_an_escape(capsys):
    from taskvec.cli.common import show_note

    show_note("the tensor \x1b[31mw\x07\nand ü")
    assert capsys.readouterr().err == "note: the tensor \\x1b[31mw\\x07\nand ü\n"
