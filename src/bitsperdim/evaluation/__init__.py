"""From a model and test images to numbers with their errors: the evaluator, its metrics and pictures."""
