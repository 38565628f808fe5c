"""Evaluation of a model on test images: the evaluator, its metrics with their errors, and pictures."""
