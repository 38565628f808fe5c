"""Recipes: bigger runs by name, each with the published number that it is held against.

``recipe`` reads ``recipes/<name>.yaml``, ``settings`` applies ``-S``, ``running`` runs it as a DVC experiment or stage
by stage, ``result`` writes ``recipes/results/<name>.json`` with the log-likelihood of every test image beside it,
``table`` turns these into the README's table. No stage imports this package.
"""
