"""How many queries an evaluation needs, before anything is evaluated."""

import math
from statistics import NormalDist

DIFFERENCE = 0.02  # of nDCG@10: what a change of the settings often brings
DEVIATION = 0.2  # of the differences over the queries, between retrievers of one recipe (studies/results/default.json)
DETECTED = 0.8  # share of the evaluations in which a paired test at 5 % detects a difference that exists
_DISTANCE = NormalDist().inv_cdf(1 - 0.05 / 2) + NormalDist().inv_cdf(DETECTED)  # standard errors, about 2.8


def queries_needed(difference: float, deviation: float = DEVIATION) -> int:
    """Return how many queries a paired test at 5 % needs to detect a mean difference in 80 % of the evaluations.

    >>> queries_needed(0.02)  # (1.96 + 0.84)^2 * (0.2 / 0.02)^2
    785
    """
    return math.ceil((_DISTANCE * deviation / difference) ** 2)


def detectable(queries: int, deviation: float = DEVIATION) -> float:
    """Return the smallest mean difference that a paired test detects, with the chances of :func:`queries_needed`.

    >>> round(detectable(785), 4), round(detectable(1), 2)
    (0.02, 0.56)
    """
    return _DISTANCE * deviation / math.sqrt(queries)
