"""Arithmetic on log-weights and log-likelihoods, independent of models: estimates, errors, differences, verdicts."""
