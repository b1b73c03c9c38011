"""Measured results for people to read: reports, cards, audits. A figure without a stored result is never shown."""
