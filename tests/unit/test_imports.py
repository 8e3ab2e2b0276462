"""Callbacks after an import."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from attnprof.instrument.imports import when_imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "a_module.py").write_text("seen = __loader__, __spec__.loader\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "a_module"
    sys.modules.pop("a_module", None)


def test_a_module_is_told_when_it_is_imported_and_sees_nothing_of_it(module):
    told = []
    when_imported(module, told.append)
    assert told == []
    imported = importlib.import_module(module)
    assert told == [imported]
    assert {type(loader).__name__ for loader in imported.seen} == {"SourceFileLoader"}
    importlib.reload(imported)
    assert told == [imported]


def test_to_ask_whether_a_module_is_there_imports_nothing_and_loses_nothing(module):
    told = []
    when_imported(module, told.append)
    for _ in range(2):
        spec = importlib.util.find_spec(module)
        assert spec.loader.get_filename(module) == spec.origin
    assert told == []
    assert [importlib.import_module(module)] == told


def test_one_that_is_imported_already_is_told_at_once_and_one_taken_back_never(module):
    told = []
    when_imported(module, told.append)()
    imported = importlib.import_module(module)
    assert told == []
    when_imported(module, told.append)
    assert told == [imported]


def test_a_module_that_is_not_there_is_missing_as_ever():
    forget = when_imported("no_such_module_anywhere", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_module_anywhere'$"):
        importlib.import_module("no_such_module_anywhere")
    assert importlib.util.find_spec("no_such_module_anywhere") is None
    forget()
