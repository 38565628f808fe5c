"""Typed parameters that a user may set, in ``params.yaml`` and its sections; no data set or model is loaded here."""
