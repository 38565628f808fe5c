"""Readers of the stages' result files, with checks and types; all other code reads results through them."""
