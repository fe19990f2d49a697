"""Which items may never be one another's negatives, a block of rows at a time."""

# N = items, T = unique texts, F = keys, R = rows

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices
from pairloom.models.batches.relations import Relations


class KnownPositives:
    """Pairs of items that are positives, or of which one's image is a positive of a text that the other carries.

    The second goes further: an item's image belongs to every text of its group, whoever else carries that text.
    """

    def __init__(self, relations: Relations) -> None:
        count, texts = len(relations), len(relations.texts)
        owners, carried = relations.item_texts.owners, relations.item_texts.values_V
        self._carried_NT = sparse.csr_matrix(
            (np.ones(len(owners), dtype=np.int32), (owners, carried)), shape=(count, texts)
        )
        self._carried_TN = self._carried_NT.T.tocsr()
        self._item_keys_NF, self._item_keys_FN = relations.item_keys_NF, relations.item_keys_NF.T.tocsr()
        self._text_keys_TF, self._text_keys_FT = relations.text_keys_TF, relations.text_keys_TF.T.tocsr()
        self._edges = None
        if relations.edge_weights_NN is not None and relations.edge_weights_NT is not None:
            paired_NT = (relations.edge_weights_NT > 0).astype(np.int32)
            self._edges = (relations.edge_weights_NN > 0).astype(np.int32), paired_NT, paired_NT.T.tocsr()

    def of(self, rows_R: Indices) -> sparse.csr_matrix:
        """Sparse bool (R, N); every item is one of its own."""
        keys_RF, own_RT = self._item_keys_NF[rows_R], self._carried_NT[rows_R]
        # Texts that belong to the row's image, and keys of the images that the row's texts belong to.
        texts_RT = keys_RF @ self._text_keys_FT
        images_RF = keys_RF + own_RT @ self._text_keys_TF
        known_RN = images_RF @ self._item_keys_FN
        if self._edges is not None:
            paired_NN, paired_NT, paired_TN = self._edges
            texts_RT = texts_RT + paired_NT[rows_R]
            known_RN = known_RN + paired_NN[rows_R] + own_RT @ paired_TN
        found: sparse.csr_matrix = (known_RN + texts_RT @ self._carried_TN).astype(bool)
        found.sort_indices()
        return found
