"""The loops of a Vamana graph, compiled: beam search by vectors or by codes, robust pruning, construction.

Subramanya et al. (2019), DiskANN. A graph is a matrix of neighbours, a row a vertex, filled from the left with
``degree[v]`` of them.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, fastmath=True)
def _square(a, b):
    total = np.float32(0.0)
    for i in range(a.shape[0]):
        gap = a[i] - b[i]
        total += gap * gap
    return total


@njit(cache=True)
def _insert(values, ids, open_, size, value, vertex):
    """Into the beam, ascending; returns its new size. Of a full beam the last falls out."""
    width = values.shape[0]
    if size == width and value >= values[width - 1]:
        return size
    at = size if size < width else width - 1
    while at > 0 and values[at - 1] > value:
        values[at], ids[at], open_[at] = values[at - 1], ids[at - 1], open_[at - 1]
        at -= 1
    values[at], ids[at], open_[at] = value, vertex, True
    return min(size + 1, width)


@njit(cache=True)
def _first_open(open_, size):
    for i in range(size):
        if open_[i]:
            return i
    return -1


@njit(cache=True)
def beam_by_vectors(q, x, neighbours, degree, start, width, seen, stamp, expanded):
    """Greedy beam search. Fills ``expanded`` with the vertices whose neighbours were looked at; returns how many, and
    how many distances were computed."""
    values, ids = np.empty(width, np.float32), np.empty(width, np.int64)
    open_ = np.zeros(width, np.bool_)
    size = _insert(values, ids, open_, 0, _square(q, x[start]), start)
    seen[start] = stamp
    count, evaluations = 0, 1
    while True:
        at = _first_open(open_, size)
        if at < 0 or count == expanded.shape[0]:
            break
        open_[at] = False
        vertex = ids[at]
        expanded[count] = vertex
        count += 1
        for e in range(degree[vertex]):
            other = neighbours[vertex, e]
            if seen[other] != stamp:
                seen[other] = stamp
                evaluations += 1
                size = _insert(values, ids, open_, size, _square(q, x[other]), other)
    return count, evaluations


@njit(cache=True)
def beams_by_codes(tables, codes, neighbours, degree, start, width, out):
    """For each query a beam search over codes: ``out`` (queries, width) gets the final beams, -1 where they are short.

    ``tables`` (queries, M, K). Returns the number of distances of each query.
    """
    m, M = tables.shape[0], tables.shape[1]
    seen = np.full(codes.shape[0], -1, np.int64)
    evaluations = np.zeros(m, np.float64)
    for query in range(m):
        table = tables[query]
        values, ids = np.empty(width, np.float32), np.empty(width, np.int64)
        open_ = np.zeros(width, np.bool_)
        first = np.float32(0.0)
        for part in range(M):
            first += table[part, codes[start, part]]
        size = _insert(values, ids, open_, 0, first, start)
        seen[start] = query
        evaluations[query] = 1
        while True:
            at = _first_open(open_, size)
            if at < 0:
                break
            open_[at] = False
            vertex = ids[at]
            for e in range(degree[vertex]):
                other = neighbours[vertex, e]
                if seen[other] != query:
                    seen[other] = query
                    evaluations[query] += 1
                    value = np.float32(0.0)
                    for part in range(M):
                        value += table[part, codes[other, part]]
                    size = _insert(values, ids, open_, size, value, other)
        for i in range(width):
            out[query, i] = ids[i] if i < size else -1
    return evaluations


@njit(cache=True)
def _prune(vertex, candidates, count, x, alpha, most, neighbours, degree):
    """RobustPrune: the nearest candidate becomes a neighbour and removes those that it is ``alpha`` times nearer to."""
    limit = np.float32(alpha * alpha)  # distances are squared
    values = np.empty(count, np.float32)
    for i in range(count):
        values[i] = _square(x[vertex], x[candidates[i]])
    order = np.argsort(values)
    gone = np.zeros(count, np.bool_)
    kept = 0
    for a in range(count):
        i = order[a]
        if gone[i] or candidates[i] == vertex:
            continue
        neighbours[vertex, kept] = candidates[i]
        kept += 1
        if kept == most:
            break
        for b in range(a + 1, count):
            j = order[b]
            if not gone[j] and limit * _square(x[candidates[i]], x[candidates[j]]) <= values[j]:
                gone[j] = True
    degree[vertex] = kept


@njit(cache=True)
def build(x, neighbours, degree, order, start, width, alpha, most):
    """One pass of Vamana over the vertices in ``order``, in place. Rows of ``neighbours`` have room beyond ``most``: a
    vertex is pruned again only when its row is full."""
    room = neighbours.shape[1]
    seen = np.full(x.shape[0], -1, np.int64)
    expanded = np.empty(4 * width, np.int64)
    candidates = np.empty(4 * width + room + 1, np.int64)
    mark = np.full(x.shape[0], -1, np.int64)
    for turn in range(order.shape[0]):
        vertex = order[turn]
        count, _ = beam_by_vectors(x[vertex], x, neighbours, degree, start, width, seen, turn, expanded)
        total = 0
        for i in range(count + degree[vertex]):
            other = expanded[i] if i < count else neighbours[vertex, i - count]
            if mark[other] != turn and other != vertex:
                mark[other] = turn
                candidates[total] = other
                total += 1
        _prune(vertex, candidates, total, x, alpha, most, neighbours, degree)
        for e in range(degree[vertex]):
            other = neighbours[vertex, e]
            there = False
            for i in range(degree[other]):
                if neighbours[other, i] == vertex:
                    there = True
                    break
            if there:
                continue
            if degree[other] < room:
                neighbours[other, degree[other]] = vertex
                degree[other] += 1
            else:
                for i in range(room):
                    candidates[i] = neighbours[other, i]
                candidates[room] = vertex
                _prune(other, candidates, room + 1, x, alpha, most, neighbours, degree)
