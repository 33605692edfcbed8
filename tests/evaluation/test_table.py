"""The one writer of tables, in its three forms."""

from priorcodec.evaluation.table import Table

TABLE = Table(
    heads=["codec", "setting", "bpp"], rows=[["a <b>", "1", "0.5"], ["long name", "10", "12.25"]], note="A note."
)


def test_markdown_aligns_numbers_to_the_right():
    assert TABLE.markdown().splitlines() == [
        "| codec | setting | bpp |",
        "| --- | ---: | ---: |",
        "| a <b> | 1 | 0.5 |",
        "| long name | 10 | 12.25 |",
        "",
        "A note.",
    ]


def test_text_is_as_wide_as_it_needs():
    assert TABLE.text() == "codec      setting    bpp\na <b>            1    0.5\nlong name       10  12.25\nA note.\n"


def test_html_escapes_cells():
    html = TABLE.html()
    assert "<td>a &lt;b&gt;</td>" in html and html.endswith('<p class="note">A note.</p>')
    assert Table(heads=["x", "y"], rows=[["1", "2"]], texts=2).html().count('class="word"') == 2


def test_without_rows_the_note_remains():
    assert Table(heads=[], rows=[], note="Nothing measured.").markdown() == "Nothing measured."
