"""A rare delay with a known probability: importance sampling where its answer, and its error, can be checked.

Ten tasks wait for each other, their durations are random, and the project is late if it takes 70 or more, which happens
three times in 100,000. How many draws tell that, and when can their error bar be believed? The same weights, ESS and
standard errors as those of the likelihoods of this project, with exact answers to be held against:

- :mod:`.network`: the project, its longest path;
- :mod:`.chain`: the exact distribution, by a Markov chain of 51 states;
- :mod:`.proposals`: exponential durations of other means, their weights, their exact variance, the least one;
- :mod:`.cross_entropy`: a proposal that is found without the answer;
- :mod:`.estimators`: estimates, errors, ESS, coverage;
- :mod:`.study`: the tables.

The subject is that of Keng's essay "Importance Sampling and Estimating Marginal Likelihood in Variational
Autoencoders" and of Owen 2013, "Monte Carlo theory, methods and examples", chapter 9. No data and no model of
``params.yaml`` has a part in it.
"""

from bitsperdim.studies.project_delay.study import Rows, study, write

__all__ = ["Rows", "study", "write"]
