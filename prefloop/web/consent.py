"""What answers may be used for: asked once, purpose by purpose, in plain words that have a version."""

from __future__ import annotations

CONSENT_VERSION = 1
PURPOSES = [
    ("training", "Train models", "My answers may be used to train and to measure models in this project."),
    ("publication", "Publish", "My answers may be published as part of a data set, under a made-up id, never my name."),
]
"""(purpose, name, words): asked once, in this version of the words, and withdrawn on one's own page."""
