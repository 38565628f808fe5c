"""Comparison and ranking of results from other commits, experiments and recipes, image by image.

``history`` reads git, and ``cache`` reads the files that DVC stores beside it. ``numbers`` holds one model's result,
and ``source`` a set of results (a revision, an experiment, the workspace, a recipe's result). ``comparison`` compares
two sources, ``leaderboard`` ranks all, and ``output`` writes both. The command line calls ``commands``. No stage
imports this package, and this package does not import torch.
"""
