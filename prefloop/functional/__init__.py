"""Equations that are used twice or more: torch only, no state, one value per decision or pair."""
