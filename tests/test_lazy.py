"""Names that are imported when somebody asks for one of them."""

import sys

import pytest

from taskvec.lazy import Lazy


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """Two modules that nobody has imported: one with functions, one with METHODS beside them."""
    (tmp_path / "lazy_plain.py").write_text("def one(): return 1\ndef two(): return 2\n")
    (tmp_path / "lazy_methods.py").write_text(
        "class Method:\n    name = 'three'\n    def __call__(self): return 3\n"
        "METHODS = (Method(),)\ndef three(): return 'the plain function'\ndef four(): return 4\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Lazy({"lazy_plain": ("one", "two", "gone"), "lazy_methods": ["three", "four"]})
    for name in ("lazy_plain", "lazy_methods"):
        sys.modules.pop(name, None)


def test_names_are_known_without_an_import(rooms):
    assert [*rooms] == ["one", "two", "gone", "three", "four"] and len(rooms) == 5
    assert "one" in rooms and "five" not in rooms and rooms.keys() >= {"four"}
    assert not {"lazy_plain", "lazy_methods"} & sys.modules.keys()


def test_only_the_module_of_a_name_is_imported(rooms):
    assert rooms["two"]() == 2
    assert "lazy_plain" in sys.modules and "lazy_methods" not in sys.modules


def test_a_method_comes_before_a_function_of_its_name(rooms):
    assert rooms["three"]() == 3 and rooms["four"]() == 4


def test_a_name_that_nobody_knows_is_no_key_and_one_that_the_module_lacks_is_a_mistake_in_the_table(rooms):
    with pytest.raises(KeyError):
        rooms["five"]
    assert rooms.get("five") is None
    with pytest.raises(AttributeError, match="gone"):
        rooms["gone"]
