"""Every byte that crosses a boundary: records, topics, tables, settings, errors.

This package knows nobody: it imports the standard library, msgspec and pyarrow only. What it holds
is a contract between processes that may run different releases, so fields are only ever appended.
"""
