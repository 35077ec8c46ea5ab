"""A picture of a tensor network's structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np


def draw(structure: np.ndarray, ax: Any, *, title: str = "", circle: Sequence[int] | None = None) -> None:
    """Vertices on a circle in the given order (default: their own), bond ranks as widths and numbers.

    Vertices without a mode (size 1) are drawn in the middle if there is one and as squares in any case.

    Args:
        structure: structure matrix (``TensorNetwork.adjacency()``).
        ax: matplotlib axes.
    """
    order = len(structure)
    graph = nx.Graph()
    graph.add_nodes_from(range(order))
    edges = [(i, j) for i in range(order) for j in range(i + 1, order) if structure[i, j] > 1]
    inner = [v for v in range(order) if structure[v, v] == 1]
    around = [v for v in (range(order) if circle is None else circle) if len(inner) != 1 or v not in inner]
    angles = {vertex: 2 * np.pi * k / len(around) for k, vertex in enumerate(around)}
    place = {vertex: np.array([np.cos(angle), np.sin(angle)]) for vertex, angle in angles.items()}
    place |= {vertex: np.zeros(2) for vertex in range(order) if vertex not in place}
    ranks = [structure[e] for e in edges]
    look = {"node_size": 110, "node_color": "#dddddd", "edgecolors": "#444444", "linewidths": 0.7}
    outer = [v for v in range(order) if v not in inner]
    nx.draw_networkx_nodes(graph, place, nodelist=outer, ax=ax, **look)
    nx.draw_networkx_nodes(graph, place, nodelist=inner, node_shape="s", ax=ax, **look)
    nx.draw_networkx_labels(graph, place, {v: str(v) for v in outer}, ax=ax, font_size=7)
    nx.draw_networkx_edges(graph, place, edgelist=edges, width=[0.5 * r for r in ranks], ax=ax, edge_color="#4477aa")
    nx.draw_networkx_edge_labels(
        graph, place, dict(zip(edges, map(str, ranks), strict=True)), ax=ax, font_size=7, rotate=False,
        bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none"},
    )  # fmt: skip
    ax.set_title(title, fontsize=8)
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.margins(0.18)
