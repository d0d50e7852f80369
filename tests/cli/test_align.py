"""The verb `align` checks its output before the work, and says what it wrote."""

import json

from commands import run


def test_it_writes_permutations_that_merge_takes_and_prints_what_it_found(home):
    printed = json.loads(run(home, "align", "a", "b", "--spec", "units.json", "-o", "perm.safetensors", "--json"))
    assert printed["path"] == "perm.safetensors" and printed["settled"]
    run(home, "merge", "0.5*a + 0.5*permute(b, p)", "a=a", "b=b", "p=perm.safetensors", "-o", "aligned", "-q")


def test_rules_that_do_not_fit_and_an_output_that_exists_are_stated_and_write_nothing(home):
    (home / "odd.json").write_text('{"g": [["none.*", 0]]}')
    message = run(home, "align", "a", "b", "--spec", "odd.json", "-o", "no.safetensors", code=1)
    assert 'g: "none.*" fits no tensor' in message and "Traceback" not in message
    assert not (home / "no.safetensors").exists()
    (home / "there.safetensors").write_bytes(b"")
    assert "--overwrite" in run(home, "align", "a", "b", "--spec", "nowhere.json", "-o", "there.safetensors", code=1)
