"""Mining beside faiss's exact index and sentence-transformers' `mine_hard_negatives`, alternating, as Markdown tables.

    python -m benchmarks.mine --rounds 3
    python -m benchmarks.mine --rounds 3 --threads 1 --search-only

Another processor is imitated by bounding what its libraries may use: torch's by ONEDNN_MAX_CPU_ISA,
MKL_ENABLE_INSTRUCTIONS and ATEN_CPU_CAPABILITY, faiss's by OPENBLAS_CORETYPE. The first lines name what was in force.

Clustered synthetic embeddings of images and texts, normalised, in float32. All contestants get the same arrays, the
same queries (the first of the items; the candidates are all of them) and the same number of threads. Every figure comes
from a process of its own, since OpenMP runtimes in one process disturb one another, after a small call that loads what
a first call loads.

- *search*: the nearest texts of an image, `nearest` beside `IndexFlatIP`, the adding of the vectors to it included.
- *mining*: hard negatives of images among texts, the own text being the only positive: `nearest` and
  `choose_negatives` beside `mine_hard_negatives` with its own search and with faiss's; a wrapper hands it the given
  embeddings in place of a model. Same num_negatives, range_max and relative_margin.
- *scratch*: resident memory of `nearest` beyond what stood before it, at its highest, in a process of its own.
"""

# N = items, D = embedding, Q = queries, K = neighbours

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Embeddings
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.negatives import choose_negatives
from pairloom.models.mining.neighbours import nearest
from pairloom.models.mining.products import fastest

CENTRES, SPREAD, DISTANCE = 2000, 0.7, 0.5
BLOCK = 20_000
BOUNDS = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "OPENBLAS_CORETYPE")


def embeddings(count: int, width: int) -> tuple[Embeddings, Embeddings]:
    """Images around random centres, and texts around their images (N, D)."""
    random = np.random.default_rng(0)
    centre_CD = random.standard_normal((CENTRES, width), dtype=np.float32)
    image_ND, text_ND = (np.empty((count, width), dtype=np.float32) for _ in range(2))
    for start in range(0, count, BLOCK):
        image_BD = centre_CD[random.integers(CENTRES, size=min(BLOCK, count - start))]
        image_BD += SPREAD * random.standard_normal(image_BD.shape, dtype=np.float32)
        text_BD = image_BD + DISTANCE * random.standard_normal(image_BD.shape, dtype=np.float32)
        for side_ND, block_BD in ((image_ND, image_BD), (text_ND, text_BD)):
            side_ND[start : start + BLOCK] = block_BD / np.linalg.norm(block_BD, axis=1, keepdims=True)
    return image_ND, text_ND


class GivenEmbeddings:
    """What `mine_hard_negatives` asks of a model; texts are the rows' numbers."""

    device = torch.device("cpu")

    def __init__(self, query_ND: Embeddings, candidate_ND: Embeddings) -> None:
        self._query_ND, self._candidate_ND = query_ND, candidate_ND

    def encode_query(self, texts: list[str], **_: object) -> Embeddings:
        """Rows of the queries."""
        return self._query_ND[[int(text[1:]) for text in texts]]

    def encode_document(self, texts: list[str], **_: object) -> Embeddings:
        """Rows of the candidates."""
        return self._candidate_ND[[int(text[1:]) for text in texts]]

    def get_embedding_dimension(self) -> int:
        """D."""
        return int(self._query_ND.shape[1])

    def similarity(self, query: Embeddings | torch.Tensor, candidate: Embeddings | torch.Tensor) -> torch.Tensor:
        """Inner products, as cosine similarity of normalised vectors is computed there."""
        return torch.as_tensor(query) @ torch.as_tensor(candidate).T

    def similarity_pairwise(self, query: Embeddings, candidate: Embeddings | torch.Tensor) -> torch.Tensor:
        """Inner products of row and row."""
        return (torch.as_tensor(query) * torch.as_tensor(candidate)).sum(dim=1)


def ours_mining(image_ND: Embeddings, text_ND: Embeddings, queries: int, config: MiningConfig) -> np.ndarray:
    """Our negatives (Q, K), -1 for none."""
    count = len(text_ND)

    def own(rows: slice) -> sparse.csr_matrix:
        columns = np.arange(rows.start, rows.stop)
        ones = np.ones(len(columns), dtype=bool)
        return sparse.csr_matrix((ones, (columns - rows.start, columns)), shape=(len(columns), count))

    found = nearest(image_ND[:queries], text_ND, config.range_max, exclude=own)
    positive_Q = np.einsum("qd,qd->q", image_ND[:queries], text_ND[:queries])
    return choose_negatives(found, positive_Q, config, seed=[0]).indices_NK


def theirs_mining(
    image_ND: Embeddings, text_ND: Embeddings, queries: int, config: MiningConfig, use_faiss: bool
) -> np.ndarray:
    """Their negatives (Q, K), -1 for none."""
    from datasets import Dataset  # here and below: each process loads its own contestant only
    from sentence_transformers.util import mine_hard_negatives

    pairs = Dataset.from_dict({"anchor": [f"q{n}" for n in range(queries)], "text": [f"t{n}" for n in range(queries)]})
    with contextlib.redirect_stderr(io.StringIO()):
        mined = mine_hard_negatives(
            pairs,
            GivenEmbeddings(image_ND, text_ND),
            corpus=[f"t{number}" for number in range(len(text_ND))],
            range_max=config.range_max,
            relative_margin=config.relative_margin,
            num_negatives=config.num_negatives,
            faiss_batch_size=1024,  # its default's similarity matrix would take 13 GB
            use_faiss=use_faiss,
            verbose=False,
        )
    found: list[list[int]] = [[] for _ in range(queries)]
    for anchor, negative in zip(mined["anchor"], mined["negative"], strict=True):
        found[int(anchor[1:])].append(int(negative[1:]))
    return np.array([(own + [-1] * config.num_negatives)[: config.num_negatives] for own in found])


def faiss_search(query_QD: Embeddings, candidate_ND: Embeddings, k: int) -> np.ndarray:
    """Indices of the nearest (Q, K)."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(candidate_ND.shape[1])
    index.add(candidate_ND)
    found: np.ndarray = index.search(query_QD, k)[1]
    return found


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Share of the first's entries that the second has in the same row."""
    pairs = zip(one.tolist(), other.tolist(), strict=True)
    shared = sum(len(set(a) & set(b) - {-1}) for a, b in pairs)
    return shared / max(int((one >= 0).sum()), 1)


def contestant(name: str, image_ND: Embeddings, text_ND: Embeddings, k: int) -> Callable[[int], np.ndarray]:
    """What a contestant does with a number of queries."""
    config = MiningConfig(num_negatives=4, range_max=k, relative_margin=0.05)
    known: dict[str, Callable[[int], np.ndarray]] = {
        "search, ours": lambda queries: nearest(image_ND[:queries], text_ND, k).indices_QK,
        "search, faiss IndexFlatIP": lambda queries: faiss_search(image_ND[:queries], text_ND, k),
        "mining, ours": lambda queries: ours_mining(image_ND, text_ND, queries, config),
        "mining, mine_hard_negatives": lambda queries: theirs_mining(image_ND, text_ND, queries, config, False),
        "mining, mine_hard_negatives with faiss": lambda queries: theirs_mining(
            image_ND, text_ND, queries, config, True
        ),
    }
    return known[name]


def scratch(image_ND: Embeddings, text_ND: Embeddings, queries: int, k: int) -> float:
    """MiB at the highest, sampled every 2 ms."""
    nearest(image_ND[:64], text_ND[:64], k)  # loads the libraries' own memory
    highest, before, ended = [0], resident(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    nearest(image_ND[:queries], text_ND, k)
    ended.set()
    watcher.join()
    return (highest[0] - before) / 2**20


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def child(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Measures one contestant once: prints a figure, leaves what it found."""
    torch.set_num_threads(options.threads)
    image_ND, text_ND = (np.load(folder / f"{side}.npy") for side in ("image", "text"))
    if name == "scratch":
        sys.stdout.write(f"{scratch(image_ND, text_ND, options.queries, options.neighbours)}")
        return
    contestant(name, image_ND[:2000], text_ND[:2000], options.neighbours)(100)
    run = contestant(name, image_ND, text_ND, options.neighbours)
    wall, cpu = time.perf_counter(), time.process_time()
    found = run(options.queries)
    sys.stdout.write(f"{time.perf_counter() - wall} {time.process_time() - cpu}")
    np.save(folder / f"{name}.npy", found)


def compete(kind: str, peers: list[str], measure: Callable[[str], list[float]], folder: Path, rounds: int) -> None:
    """A table: a row a contestant, ours first; medians over rounds in which they take turns."""
    names = [f"{kind}, {name}" for name in ("ours", *peers)]
    turns: dict[str, list[list[float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            turns[name].append(measure(name))
    ours = np.load(folder / f"{names[0]}.npy")
    sys.stdout.write("| contestant | CPU s | rounds | times ours | wall s | rounds | times ours | agreement |\n")
    sys.stdout.write(f"|{' --- |' * 8}\n")
    for name, own in turns.items():
        cells = []
        for clock in (1, 0):
            seconds = [turn[clock] for turn in own]
            ratio = statistics.median(b / a[clock] for a, b in zip(turns[names[0]], seconds, strict=True))
            each = ", ".join(f"{value:.1f}" for value in seconds)
            cells.append(f"{statistics.median(seconds):.2f} | {each} | {ratio:.2f}")
        same = agreement(np.load(folder / f"{name}.npy"), ours)
        sys.stdout.write(f"| {name} | {' | '.join(cells)} | {same:.5f} |\n")
    sys.stdout.write("\n")
    sys.stdout.flush()


def processor() -> str:
    """The processor's name, what its libraries may use of it, and what was chosen for it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unnamed processor")
    known = torch.cpu.get_capabilities()
    has = [
        name for name in ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if known.get(name)
    ]
    bounds = [f"{name}={os.environ[name]}" for name in BOUNDS if name in os.environ]
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {' '.join(has)}; bounded by {' '.join(bounds) or 'nothing'}; "
        f"torch's kernels {torch.backends.cpu.get_cpu_capability()}, faiss's {_faiss_kernel()}; "
        f"product chosen: {fastest()}"
    )


def _faiss_kernel() -> str:
    """The kind of processor that faiss's OpenBLAS takes this one for; in a process of its own, beside no other BLAS."""
    code = (
        "import ctypes, faiss; path = next(line.split()[-1] for line in open('/proc/self/maps') "
        "if 'faiss_cpu.libs' in line and 'openblas' in line); library = ctypes.CDLL(path); "
        "name = next(n for n in ('openblas_get_corename', 'openblas_get_corename64_', 'scipy_openblas_get_corename') "
        "if hasattr(library, n)); function = getattr(library, name); function.restype = ctypes.c_char_p; "
        "print(function().decode())"
    )
    found = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return found.stdout.decode().strip() or "unknown"


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=8192)
    parser.add_argument("--neighbours", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--search-only", action="store_true", help="neither mining nor scratch")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]), options)
        return
    sys.stdout.write(f"{options.items:,} × {options.width}, {options.queries:,} queries, top {options.neighbours}, ")
    sys.stdout.write(f"{options.threads} threads, load at the start {os.getloadavg()[0]:.1f}\n")
    torch.set_num_threads(options.threads)
    sys.stdout.write(f"{processor()}\n\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, vectors_ND in zip(("image", "text"), embeddings(options.items, options.width), strict=True):
            np.save(folder / f"{side}.npy", vectors_ND)
        own = [f"--{name}={getattr(options, name)}" for name in ("queries", "neighbours", "threads")]

        def measure(name: str) -> list[float]:
            command = [sys.executable, "-m", "benchmarks.mine", *own, "--child", name, str(folder)]
            environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
            return [float(figure) for figure in done.stdout.split()]

        compete("search", ["faiss IndexFlatIP"], measure, folder, options.rounds)
        if not options.search_only:
            peers = ["mine_hard_negatives", "mine_hard_negatives with faiss"]
            compete("mining", peers, measure, folder, options.rounds)
            sys.stdout.write(f"scratch: {measure('scratch')[0]:.0f} MiB; ")
        sys.stdout.write(f"load at the end {os.getloadavg()[0]:.1f}\n")


if __name__ == "__main__":
    main()
