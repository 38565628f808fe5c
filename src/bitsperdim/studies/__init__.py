"""Experiments of their own beside the models: each a stage, a section of ``params.yaml`` and a part of the report."""
