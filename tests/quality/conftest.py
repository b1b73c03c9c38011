"""The store's fixtures: what reads answers is tried on both databases."""

from tests.store.conftest import migrated_file, migrated_template, store, store_url

__all__ = ["migrated_file", "migrated_template", "store", "store_url"]
