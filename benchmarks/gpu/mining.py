"""Exact nearest neighbours among a million vectors, beside plain products in bfloat16 with `topk`."""

# Q = queries, C = candidates, D = embedding, K = neighbours

import time

import numpy as np
import torch

from benchmarks.gpu.measures import Part, seconds
from pairloom.models.arrays import Embeddings, best_device
from pairloom.models.mining.neighbours import nearest

K = 32
CHECKED = 200


def run(part: Part) -> None:
    """A line for ours, as far as the time lets it come, and one for the plain way over the first queries."""
    vector_CD = vectors(part.sizes.vectors, part.sizes.width)
    part.measure("nearest, ours", lambda: _ours(part, vector_CD))
    part.measure("products in bfloat16 and topk", lambda: _plain(part, vector_CD))


def vectors(count: int, width: int) -> Embeddings:
    """Unit vectors in clusters, as embeddings lie."""
    random = np.random.default_rng(0)
    centre_MD = random.standard_normal((max(count // 100, 1), width), np.float32)
    vector_CD = random.standard_normal((count, width), np.float32)
    vector_CD += 1.5 * centre_MD[random.integers(len(centre_MD), size=count)]
    vector_CD /= np.linalg.norm(vector_CD, axis=1, keepdims=True)
    return vector_CD


def _ours(part: Part, vector_CD: Embeddings) -> dict[str, object]:
    done, began, first = 0, time.perf_counter(), None
    while done < len(vector_CD) and time.monotonic() < part.ends:
        found = nearest(vector_CD[done : done + part.sizes.queries], vector_CD, K)
        first = first if first is not None else found.indices_QK[:CHECKED]
        done += len(found.indices_QK)
    spent = time.perf_counter() - began
    assert first is not None, "there is time left at the beginning"
    exact_QC = vector_CD[:CHECKED].astype(np.float64) @ vector_CD.T.astype(np.float64)
    exact_QK = np.argpartition(-exact_QC, K, axis=1)[:, :K]
    right = np.mean([len(np.intersect1d(*rows)) / K for rows in zip(first, exact_QK, strict=True)])
    facts = {"candidates": len(vector_CD), "width": vector_CD.shape[1], "k": K, "queries": done, "seconds": spent}
    return {**facts, "queries_per_second": done / spent, "recall": float(right)}


def _plain(part: Part, vector_CD: Embeddings) -> dict[str, object]:
    device = best_device()
    candidate_CD = torch.from_numpy(vector_CD).to(device, torch.bfloat16)
    queries = min(part.sizes.queries, len(vector_CD))

    def once() -> None:
        for start in range(0, queries, 1024):
            (candidate_CD[start : min(start + 1024, queries)] @ candidate_CD.T).topk(K, dim=1)

    spent = seconds(once)
    return {"queries": queries, "seconds": spent, "queries_per_second": queries / spent}
