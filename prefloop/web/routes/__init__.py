"""The routes: the API for machines, signing in, the annotators' pages, the leads' pages, and people and tokens."""
