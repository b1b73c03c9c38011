"""The in-process sampler."""
