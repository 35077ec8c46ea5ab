"""Models of counts beside pyttb's Poisson CP: seconds of a fit and what it predicts, in one process and on one thread.

    NUMBA_NUM_THREADS=1 OMP_NUM_THREADS=1 python packages/decomposition/benchmarks/count_models.py

Peer: `pyttb.cp_apr` (multiplicative updates, sparse; the extra `bench`). Our CP (BPTF) has as many components; it and
the Tucker model (BPTD) are sampled. One event in ten is held out; the log-likelihood per held-out event (nats, higher
is better) stands beside the seconds, since a sweep of a sampler and an iteration of an optimiser are not the same work.
"""

from __future__ import annotations

import numpy as np

from tensorbench.core.timing import compare
from tensorbench.decomposition.baselines.counts import pyttb_cp_apr
from tensorbench.decomposition.counts.bptd import BPTD, loglik_per_event
from tensorbench.decomposition.counts.related import BPTF
from tensorbench.decomposition.counts.splits import thin_split
from tensorbench.decomposition.datasets.counts import planted_communities

HELD_OUT = 0.1
COMPONENTS = 20


def main() -> None:
    """Fits and predictions for two numbers of events between the same actors."""
    sampled = {"n_iter": 200, "burn": 100, "seed": 0}
    for events in (10_000, 40_000):
        counts = planted_communities(seed=0, events=events).counts
        kept, held = thin_split(counts, HELD_OUT, np.random.default_rng(0))
        rivals = {
            "cp_apr": lambda kept=kept: pyttb_cp_apr(kept, COMPONENTS, iterations=40),
            "BPTF": lambda kept=kept: BPTF(COMPONENTS, **sampled).fit(kept).posterior_mean(),
            "BPTD": lambda kept=kept: BPTD(10, 4, 3, **sampled).fit(kept).posterior_mean(),
        }
        seconds = compare(rivals, repeats=1)
        print(f"{kept.sum()} events in {np.count_nonzero(kept)} cells:")
        for name, fit in rivals.items():
            score = loglik_per_event(held, fit() * (HELD_OUT / (1 - HELD_OUT)))
            print(f"  {name:6s} {seconds[name]:5.2f} s, {score:6.3f} nats")


if __name__ == "__main__":
    main()
