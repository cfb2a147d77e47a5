"""The examples in docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import nnunetv2_airway

MODULES = [module.name for module in pkgutil.walk_packages(nnunetv2_airway.__path__, "nnunetv2_airway.")]
WITH_EXAMPLES = [name for name in MODULES if ">>>" in importlib.util.find_spec(name).loader.get_source(name)]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_print_what_they_say(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed
