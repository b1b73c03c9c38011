"""What a model is worth: win rates, reward-model accuracy and calibration, floors. Each figure with n and an interval.

Pure functions of numbers and texts: callers bring scores or a judge, nothing here loads a model. An interval is a
95 % bootstrap over prompts unless its `method` says otherwise.
"""
