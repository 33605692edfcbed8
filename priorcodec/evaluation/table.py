"""The one writer of tables: headings and cells of text, printed as Markdown, HTML or aligned columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text, ready to print.

    Attributes:
        heads: one heading per column.
        rows: cells, as many as headings in each row.
        note: how to read it, a sentence or two.
        texts: number of leading columns that hold words and are aligned left; the others hold numbers.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    texts: int = 1

    def markdown(self) -> str:
        """GitHub's Markdown; the note alone when there are no rows."""
        if not self.rows:
            return self.note
        rule = [*["---"] * self.texts, *["---:"] * (len(self.heads) - self.texts)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in (self.heads, rule, *self.rows))
        return text + (f"\n\n{self.note}" if self.note else "")

    def html(self) -> str:
        """A table in a scrolling box, and the note below it."""
        words = [' class="word"' if 0 < i < self.texts else "" for i in range(len(self.heads))]
        head = "".join(f"<th{w}>{escape(h)}</th>" for w, h in zip(words, self.heads, strict=True))
        rows = "".join(
            "<tr>" + "".join(f"<td{w}>{escape(c)}</td>" for w, c in zip(words, row, strict=True)) + "</tr>"
            for row in self.rows
        )
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'

    def text(self) -> str:
        """Columns as wide as they need, so that nothing is cut when piped; ends with a line break."""
        lines = [self.heads, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = (
            "  ".join(c.ljust(w) if i < self.texts else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        )  # fmt: skip
        return "\n".join(line.rstrip() for line in shown) + "\n" + (f"{self.note}\n" if self.note else "")
