"""Three small Llamas for all tests of views."""

import pytest

import small_llamas


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return small_llamas.home(tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="session")
def models(home):
    return small_llamas.models(home)
