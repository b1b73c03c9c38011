"""Where reward comes from. `checkers` are the task world's ground truth; `sandbox` runs what a model wrote."""
