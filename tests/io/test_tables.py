from nnunet_mamba.io.tables import BestCell, Table, escape_markdown

TABLE = Table(("method", "mean"), [("a", "0.5"), ("long name", BestCell("12.25"))], "Title", notes=["Note."])


def test_text_is_aligned_to_the_left_and_numbers_to_the_right():
    assert TABLE.render_text().splitlines() == [
        "Title",
        "method      mean",
        "a            0.5",
        "long name  12.25",
        "Note.",
    ]


def test_markdown_says_how_its_columns_are_aligned_and_what_is_bold():
    assert TABLE.render_markdown().splitlines() == [
        "| method    |      mean |",
        "| --------- | --------: |",
        "| a         |       0.5 |",
        "| long name | **12.25** |",
    ]


def test_markdown_holds_names_as_text():
    assert escape_markdown("<b>x</b>\n *y* [z](u) &amp;") == r"&lt;b>x&lt;/b> \*y\* [z]\(u) &amp;amp;"
    (_, _, row) = Table(("a",), [("x|y",)]).render_markdown().splitlines()
    assert row == r"| x\|y |"


def test_a_table_without_rows_has_its_header():
    assert Table(("a", "b"), []).render_text() == "a  b"
