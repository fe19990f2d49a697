"""Texts that many callers ask for at once, encoded together: who comes while one batch is made shares the next."""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class TextBatches:
    """Embeds texts in batches of at most `most`, each text once; keeps the `kept` latest. For any number of threads.

    Nobody waits for others to come: the first caller encodes at once, and what is asked meanwhile is the next batch.
    """

    def __init__(self, embed: Callable[[Sequence[str]], Floats], *, most: int, kept: int = 4_096) -> None:
        """`embed` gives float32 (N, D) of N texts."""
        self._embed = embed
        self._most = most
        self._kept = kept
        self._known: OrderedDict[str, Floats] = OrderedDict()
        self._waiting: deque[tuple[str, Future[Floats]]] = deque()
        self._asked: dict[str, Future[Floats]] = {}
        self._state, self._encoding = Lock(), Lock()
        self.batches = self.texts = 0
        """How many batches were encoded, and of how many texts."""

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Float32 (N, D). Raises what `embed` raises."""
        found = [self._ask(text) for text in texts]
        while not all(future.done() for future in found):
            with self._encoding:
                if not all(future.done() for future in found):
                    self._encode_next()
        return np.stack([future.result() for future in found])

    def _ask(self, text: str) -> "Future[Floats]":
        with self._state:
            if text in self._known:
                self._known.move_to_end(text)
                done: Future[Floats] = Future()
                done.set_result(self._known[text])
                return done
            if text not in self._asked:
                self._asked[text] = Future()
                self._waiting.append((text, self._asked[text]))
            return self._asked[text]

    def _encode_next(self) -> None:
        """Encode what waits longest. The caller holds `_encoding`."""
        with self._state:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            vector_ND = self._embed([text for text, _ in batch])
        except BaseException as error:
            self._settle(batch)
            for _, future in batch:
                future.set_exception(error)
            return
        self.batches, self.texts = self.batches + 1, self.texts + len(batch)
        self._settle(batch, vector_ND)
        for (_, future), vector_D in zip(batch, vector_ND, strict=True):
            future.set_result(vector_D)

    def _settle(self, batch: Sequence[tuple[str, "Future[Floats]"]], vector_ND: Floats | None = None) -> None:
        with self._state:
            for place, (text, _) in enumerate(batch):
                del self._asked[text]
                if vector_ND is not None:
                    self._known[text] = vector_ND[place]
            while len(self._known) > self._kept:
                self._known.popitem(last=False)
