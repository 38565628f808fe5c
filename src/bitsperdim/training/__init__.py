"""The one trainer: batches, steps, and what goes on after an interruption."""
