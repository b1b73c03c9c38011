"""The two loops, offline and online, and what they share: optimizer, metrics, the run folder and resume."""
