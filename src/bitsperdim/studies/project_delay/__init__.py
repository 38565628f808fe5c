"""A rare delay with a known probability: a test of importance sampling whose answer and error can be checked.

Ten tasks wait for each other, and their durations are random. The project is late if it takes 70 or longer, which
happens with a probability of about 3 in 100,000. How many draws are needed to estimate this probability, and when can
the error bar be trusted? The study uses the same weights, ESS and standard errors as the likelihoods of this package,
and compares them with exact answers:

- :mod:`.network`: the project and its longest path;
- :mod:`.chain`: the exact distribution, by a Markov chain with 51 states;
- :mod:`.proposals`: exponential durations with other means, their weights, their exact variance, the least variance;
- :mod:`.cross_entropy`: a proposal that is found without the answer;
- :mod:`.estimators`: estimates, errors, ESS, coverage;
- :mod:`.study`: the tables.

The subject is that of Keng's essay "Importance Sampling and Estimating Marginal Likelihood in Variational
Autoencoders" and of Owen 2013, "Monte Carlo theory, methods and examples", chapter 9. The study uses no data set and no
model of ``params.yaml``.
"""

from bitsperdim.studies.project_delay.study import Rows, study, write

__all__ = ["Rows", "study", "write"]
