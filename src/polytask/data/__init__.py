"""Data: tables, splits, and what turns their rows into batches."""

from polytask.data.batch import Batch
from polytask.data.builtin import builtin_names, read_builtin
from polytask.data.column_types import ColumnType
from polytask.data.combined import CombinedTable, combine
from polytask.data.loader import Loader
from polytask.data.preparation import Preparation
from polytask.data.readers import ReadOptions, read_table
from polytask.data.source import Source
from polytask.data.splits import Split, make_split
from polytask.data.table import Table

__all__ = [
    "Batch",
    "ColumnType",
    "CombinedTable",
    "Loader",
    "Preparation",
    "ReadOptions",
    "Source",
    "Split",
    "Table",
    "builtin_names",
    "combine",
    "make_split",
    "read_builtin",
    "read_table",
]
