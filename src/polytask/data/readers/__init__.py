"""Readers of tables: CSV, Parquet, JSON Lines, Arrow and Hugging Face folders, image folders, Pascal VOC, COCO."""

from polytask.data.readers.formats import read_table
from polytask.data.readers.options import ReadOptions

__all__ = ["ReadOptions", "read_table"]
