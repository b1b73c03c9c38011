"""From rows to batches: padding to the right, micro-batches filled to a token budget, order by seed."""
