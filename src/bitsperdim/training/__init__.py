"""The trainer for all models: batches, steps, validation, and resuming after an interruption."""
