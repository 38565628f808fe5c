"""Recipes: larger named runs, each with the published numbers with which it is compared.

``recipe`` reads ``recipes/<name>.yaml``, ``settings`` applies ``-S``, and ``running`` runs a recipe as a DVC experiment
or stage by stage. ``result`` writes ``recipes/results/<name>.json``, with the log-likelihood of every test image beside
it, and ``table`` turns these files into the README's table. No stage imports this package.
"""
