"""Models in Hugging Face layout: load, save, the one tokenise path, heads, adapters, checkpoints."""

import os

PREPARED = {"LRU_CACHE_CAPACITY": "32", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192"}
"""How many operations PyTorch keeps prepared for sizes that came, on a processor: its own layer, and oneDNN below it.

Texts have so many lengths that hardly one of those comes again, and each holds memory: with the libraries' own 1,024
a training step holds half as much again, and is not faster. Both are read with the process's first such operation.
"""

for _name, _most in PREPARED.items():
    os.environ.setdefault(_name, _most)
