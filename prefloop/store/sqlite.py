"""The SQLite that everything here uses: that of the package pysqlite3 where it is installed, else Python's own.

Pythons come with whatever SQLite their system has, for years one whose write-ahead log can corrupt a database
(`WAL_IS_SAFE_FROM` in database.py). One program must not use two of them: a copy of SQLite that closes a file drops the
locks that the other one holds on it (https://www.sqlite.org/howtocorrupt.html, section 2.2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        from pysqlite3 import dbapi2 as sqlite3
    except ImportError:
        import sqlite3

__all__ = ["sqlite3"]
