"""Tables for the paper and for people who paste them into their own: CSV, Markdown, LaTeX and JSON."""

from tensorbench.core.tables.content import Cell, Table, experiment_table, ledger_table, plain_table
from tensorbench.core.tables.numbers import interval, number, span, to_markdown, to_tex
from tensorbench.core.tables.writers import as_json, latex, markdown, write

__all__ = [
    "Cell", "Table", "as_json", "experiment_table", "interval", "latex", "ledger_table", "markdown", "number",
    "plain_table", "span", "to_markdown", "to_tex", "write",
]  # fmt: skip
