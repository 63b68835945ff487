"""What scores mean, as probabilities: made from captions, kept beside the weights."""

FILE = "calibration.json"  # in a model's folder
