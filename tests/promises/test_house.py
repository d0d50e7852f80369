"""docs/house.md leads readers through the code: what it names must be there, in the order in which it is used."""

import ast
import re
from pathlib import Path

import pytest

import taskvec
from promises.test_layers import ORDER

ROOT = Path(taskvec.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "house.md"
NAMED = re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE.read_text())


def names_in(path):
    """The functions, classes and methods of a file, methods as Class.method."""
    tree = ast.parse(path.read_text())
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_step_of_a_walk_is_a_function_that_exists(file, name):
    assert name in names_in(ROOT / file)


def test_the_walks_are_long_enough_to_be_walks():
    assert len(NAMED) >= 20


def test_the_table_of_folders_is_the_order_of_the_layers():
    rows = [row.split("|")[1] for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    told = [name.strip("/") for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    layers = [name for names in ORDER for name in names.split() if name != "__main__"]
    assert sorted(told[:5]) == sorted(layers[:5]) and told[5:] == [n for n in layers[5:] if n not in told[:5]]
