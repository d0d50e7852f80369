"""A user's own Python file: methods for a recipe to call, functions of data, and files that hold neither."""

import pytest

from taskvec.errors import RecipeError
from taskvec.recipes.userfile import function_in, methods_in

CLIP = """
from taskvec import method

@method(local=True)
def clip(tau, *, limit=0.01):
    return tau.clip(-limit, limit)

@method
def same(*taus):
    return taus[0]

def plain(x):
    return x
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        (tmp_path / "mine.py").write_text(text)
        return str(tmp_path / "mine.py")

    return write


def test_what_is_decorated_is_found_by_its_name(file):
    methods = methods_in(file(CLIP))
    assert methods.keys() == {"clip", "same"} and methods["clip"].defaults == {"limit": 0.01}


def test_methods_of_taskvec_that_a_file_imports_are_not_its_own(file):
    with pytest.raises(RecipeError, match=r"mine\.py holds no method"):
        methods_in(file("from taskvec import slerp, ties"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = (", r"cannot be run: .* \(line 1\)"),
        ("1 / 0", "cannot be run: ZeroDivisionError: division by zero"),
        ("def clip(tau): return tau", "holds no method: decorate a function with @taskvec.method"),
        ("from taskvec import method\n@method()\ndef f(*, a=1): return a", r"mine\.py: f takes no arrays"),
        (
            "from taskvec import method\n@method()\ndef f(x, *, a): return a",
            r"mine\.py: f: parameters need defaults: a",
        ),
        ("from taskvec import method\n@method()\ndef ties(x): return x", "ties is the name of one of taskvec's own"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_stated_error(file, code, message):
    with pytest.raises(RecipeError, match=message):
        methods_in(file(code))


def test_a_file_that_does_not_exist_says_what_was_wanted(tmp_path):
    with pytest.raises(RecipeError, match=r"no\.py does not exist: --methods takes a Python file"):
        methods_in(str(tmp_path / "no.py"))
    with pytest.raises(RecipeError, match=r"no\.py does not exist: --data takes FILE\.py:function"):
        function_in(str(tmp_path / "no.py:f"))


def test_a_function_comes_with_the_digest_of_its_file(file):
    path = file(CLIP)
    plain, digest = function_in(f"{path}:plain")
    assert plain(3) == 3 and function_in(f"{path}:plain")[1] == digest
    file(CLIP + "\n")
    assert function_in(f"{path}:plain")[1] != digest


@pytest.mark.parametrize("text", ["mine.py", "mine.py:", ":f", "mine.py:a b", ""])
def test_what_names_no_function_is_said(text):
    with pytest.raises(RecipeError, match=r"is not FILE\.py:function"):
        function_in(text)


def test_functions_that_there_are_are_listed(file):
    path = file("import math\nx = 3\ndef a(): pass\ndef b(): pass")
    for name in ("c", "x"):
        with pytest.raises(RecipeError, match=rf"has no function {name}; it has a, b$"):
            function_in(f"{path}:{name}")
    with pytest.raises(RecipeError, match="it has none"):
        function_in(f"{file('x = 1')}:x")
