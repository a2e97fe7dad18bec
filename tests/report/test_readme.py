"""Blocks between markers."""

import pytest

from snnrepro.errors import ConfigError, StorageError
from snnrepro.report.readme import is_current, replace_block, update

TEXT = "a\n<!-- table10 mini -->\nold\n<!-- end -->\nb\n<!-- table2 mini -->\nkept\n<!-- end -->\n"


def test_replace_block_changes_its_block_only():
    new = "a\n<!-- table10 mini -->\nnew\nlines\n<!-- end -->\nb\n<!-- table2 mini -->\nkept\n<!-- end -->\n"
    assert replace_block(TEXT, "table10", "mini", "new\nlines\n") == new
    assert replace_block(new, "table10", "mini", "new\nlines\n") == new


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no marker", "must occur once, found 0"),
        (TEXT + TEXT, "must occur once, found 2"),
        ("<!-- table10 mini -->\nold", "is not closed"),
        (TEXT.replace("old\n<!-- end -->", "old"), "is not closed"),
        (TEXT.replace("10 mini", "10 paper"), "must occur once, found 0"),
    ],
)
def test_replace_block_refuses_unclear_markers(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        replace_block(text, "table10", "mini", "new")


def test_update_makes_a_file_current_and_a_changed_digit_is_noticed(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    assert not is_current(path, "table10", "mini", "97.20\n")
    update(path, "table10", "mini", "97.20\n")
    assert is_current(path, "table10", "mini", "97.20\n")
    path.write_text(path.read_text().replace("97.20", "97.30"))
    assert not is_current(path, "table10", "mini", "97.20\n")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"README\.md: cannot read"):
        update(tmp_path / "README.md", "table10", "mini", "x")
