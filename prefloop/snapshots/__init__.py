"""Answers and their consensus as frozen datasets; formats in and out. Nothing here loads torch."""
