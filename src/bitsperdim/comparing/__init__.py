"""Results of other commits, experiments and recipes, compared image by image and ranked.

``history`` reads git, ``cache`` what DVC keeps beside it; ``numbers`` is one model's result, ``source`` a set of them
(a revision, an experiment, the workspace, a recipe's result). ``comparison`` compares two, ``leaderboard`` ranks all,
``output`` writes both, ``commands`` is what the command line calls. No stage imports this package, and it imports no
torch.
"""
