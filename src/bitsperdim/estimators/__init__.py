"""Arithmetic on log-weights and log-likelihoods, which knows no model: estimates, errors, differences, verdicts."""
