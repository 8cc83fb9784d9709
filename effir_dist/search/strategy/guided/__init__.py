"""The `guided` sampler, for any study of Optuna. It knows nothing of trials, records and schedulers of a search.

`sampler` is asked for a point. `observe` and `points` read the study; `drawing` and `pool` make hundreds of candidates;
`surrogate`, `quality` and `improvement` say which of them raises the hypervolume most.
"""

from effir_dist.search.strategy.guided.sampler import COSTS, LOW_FIDELITY, GuidedSampler, Screened

__all__ = ["COSTS", "LOW_FIDELITY", "GuidedSampler", "Screened"]
