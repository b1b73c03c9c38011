"""What the answers are worth: aggregation and agreement."""
