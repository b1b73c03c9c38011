"""Side by side with the libraries that people use: same model, data, precision and machine, in one run.

`make bench` makes the peers' environments and runs everything; `prefloop bench --work W` runs one. Each side works in a
fresh process of its own interpreter, the sides take turns, and each reports its throughput and its peak memory.
"""
