"""Tables of what is stored beside the items: `quarantine` and `pairs`."""

import pyarrow as pa

from pairloom.search.sql.session import Session
from pairloom.storage.corpus import Corpus
from pairloom.storage.pairs import PairStore
from pairloom.storage.quarantine import RejectedRows
from pairloom.storage.schema import PAIRS


def quarantine(session: Session) -> pa.Table:
    """The rows that were no items when the release's snapshot was made."""
    corpus = Corpus(session.release.folder)
    return RejectedRows(corpus, corpus.log.read(session.release.record.snapshot)).table()


def pairs(session: Session) -> pa.Table:
    """The pairs of the newest mining that is kept; none where none is."""
    store = PairStore(session.release.folder)
    newest = store.newest()
    return PAIRS.empty_table() if newest is None else store.read(newest)
