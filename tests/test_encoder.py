from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_encoder, tiny_images

from pairloom.models.encoder import Encoder, mean_text_embeddings
from pairloom.models.fitness import UnfitModelError, require_finite


def test_a_row_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    encoder = Encoder(tiny_encoder(tmp_path))
    images, texts = tiny_images()[:7], ["red bar", "a much longer text with green and blue corners", "grey"]
    alone = np.concatenate([encoder.embed_images([image]) for image in images])
    np.testing.assert_allclose(encoder.embed_images(images, batch_size=3), alone, atol=1e-6)
    np.testing.assert_allclose(
        encoder.embed_texts(texts), np.concatenate([encoder.embed_texts([t]) for t in texts]), atol=1e-6
    )


def test_embeddings_are_float32_unit_vectors(tmp_path: Path) -> None:
    encoder = Encoder(tiny_encoder(tmp_path))
    embedding_ND = encoder.embed_images(tiny_images())
    assert embedding_ND.shape == (32, encoder.dimension)
    assert embedding_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding_ND, axis=1), 1, atol=1e-6)
    assert encoder.embed_images([]).shape == (0, encoder.dimension)
    assert encoder.embed_texts([]).shape == (0, encoder.dimension)


def test_mean_text_embedding_is_the_normalised_mean() -> None:
    text_TD = np.array([[1, 0], [0, 1]], dtype=np.float32)
    mean_ND = mean_text_embeddings(text_TD, [np.array([0, 1]), np.array([1])])
    np.testing.assert_allclose(mean_ND, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-6)


def test_embeddings_that_are_no_numbers_are_refused_where_they_arise(tmp_path: Path) -> None:
    tiny = tiny_encoder(tmp_path)
    encoder = Encoder(tiny)
    with torch.no_grad():
        tiny.network.get_parameter("visual.proj").fill_(torch.nan)
    with pytest.raises(UnfitModelError, match="3 of 3 image embeddings are not finite"):
        encoder.embed_images(tiny_images()[:3])
    with torch.no_grad():
        tiny.network.get_parameter("text_projection").fill_(torch.inf)
    with pytest.raises(UnfitModelError, match="1 of 1 text embeddings are not finite"):
        encoder.embed_texts(["red bar"])


def test_rows_of_numbers_pass_and_rows_with_others_are_counted() -> None:
    require_finite(np.zeros((0, 4)), "rows")
    require_finite(np.ones(3), "scores")
    with pytest.raises(UnfitModelError, match="2 of 3 scores are not finite"):
        require_finite(np.array([1, np.nan, -np.inf]), "scores")
