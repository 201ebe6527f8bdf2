import sys

import pytest

from polytask.errors import MissingExtra, UserError, closest, listing, require


def test_closest_suggests_a_word_that_is_near():
    assert closest("epcohs", ["epochs", "batch_size"]) == " Did you mean 'epochs'?"


def test_closest_says_nothing_where_no_word_is_near():
    assert closest("zzz", ["epochs", "batch_size"]) == ""
    assert closest("epochs", []) == ""


def test_listing_quotes_and_joins_words():
    assert listing(["a", "b c"]) == "'a', 'b c'"
    assert listing(iter(["a"])) == "'a'"
    assert listing([]) == ""


def test_listing_cuts_long_lists_and_counts_the_rest():
    assert listing("abcde", limit=3) == "'a', 'b', 'c' and 2 more"
    assert listing("abc", limit=3) == "'a', 'b', 'c'"


def test_require_imports_a_library_that_is_there():
    import json.decoder

    assert require("json.decoder", extra="text", purpose="A test") is json.decoder


def test_require_says_which_extra_brings_a_missing_library():
    with pytest.raises(MissingExtra) as raised:
        require("no_such_library.part", extra="vision", purpose="The encoder 'timm'")
    assert str(raised.value) == (
        "The encoder 'timm' needs the library 'no_such_library', which is not installed. "
        "Install it with: pip install 'polytask[vision]'"
    )
    assert isinstance(raised.value, UserError)


def test_require_does_not_hide_that_an_installed_library_is_itself_incomplete(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import something_that_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_that_it_needs"):
        require("half_installed", extra="text", purpose="A test")
    assert "half_installed" not in sys.modules
