"""Where reward comes from: reward models, rules, and parts put together (`composition`).

`checkers` are the task world's ground truth; `sandbox` runs what a model wrote.
"""
