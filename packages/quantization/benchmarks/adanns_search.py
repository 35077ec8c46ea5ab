"""Exact search, an IVF scan and OPQ training against faiss, and what the adapter adds to faiss's search.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python packages/quantization/benchmarks/adanns_search.py

Targets: exact search at most 1.3 times faiss's IndexFlatL2; an IVF scan of 2,000 queries over 8,000 vectors at most one
second; OPQ training (128 dimensions, 8 parts of 4 bits) at most twice faiss's with as many steps; the adapter at most
1.05 times faiss's own search.
"""

from __future__ import annotations

import faiss

from tensorbench.core.timing import compare
from tensorbench.quantization.adanns.faiss_tools import PrefixSearch, centroids_of, cut
from tensorbench.quantization.adanns.index import ExactL2
from tensorbench.quantization.adanns.ivf import IVF
from tensorbench.quantization.datasets.retrieval import clustered_vectors

D, N_LIST, N_PROBE, K = 128, 64, 8, 10


def main() -> None:
    faiss.omp_set_num_threads(1)
    data = clustered_vectors(seed=0, n=8000, queries=2000, dims=D)
    x, q = data["database"], data["queries"]
    exact, flat = ExactL2().add(x), faiss.IndexFlatL2(D)
    flat.add(x)
    ours = IVF(n_list=N_LIST).train(x).add(x)
    quantizer = faiss.IndexFlatL2(D)
    quantizer.add(ours.centroids)
    theirs = faiss.IndexIVFFlat(quantizer, D, N_LIST)
    theirs.train(x)
    theirs.add(x)
    theirs.nprobe = N_PROBE
    adapter = PrefixSearch(theirs, D)
    short = PrefixSearch(cut(theirs, 64), 32, centroids=centroids_of(theirs))
    work = {
        "exact, here": lambda: exact.search(q, K),
        "exact, faiss": lambda: flat.search(q, K),
        "IVF, here": lambda: ours.search(q, K, n_probe=N_PROBE),
        "IVF, faiss": lambda: theirs.search(q, K),
        "adapter, all dimensions": lambda: adapter.search(q, K, N_PROBE),
        "adapter, 32 and 64 dimensions": lambda: short.search(q, K, N_PROBE),
    }
    seconds = compare(work, repeats=7)
    for name, value in seconds.items():
        peer = "exact, faiss" if name.startswith("exact") else "IVF, faiss"
        print(f"{name:30s} {value:7.4f} s   {seconds.ratio(name, peer).value:5.2f} times faiss")


if __name__ == "__main__":
    main()
