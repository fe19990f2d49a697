"""Features and maps in closed form against slow, obvious answers."""

# N = items, D = dimensions, T = texts

import math
import re

import numpy as np
import pytest

from pairloom.models.closed_form.discriminant import directions, discriminant, whitening
from pairloom.models.closed_form.image_features import (
    BLOCKS,
    CELL,
    CELLS,
    FAINT,
    LARGEST,
    ORIENTATIONS,
    SIDE,
    colours,
    image_features,
    oriented_edges,
)
from pairloom.models.closed_form.ridge import kernel_ridge
from pairloom.models.closed_form.text_features import MEANING, PLACES, TextFeatures, counts
from pairloom.models.closed_form.text_regression import text_regression
from pairloom.models.closed_form.word_meanings import NEARNESS, WordMeanings


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)


def edges_of_one(pixels: np.ndarray) -> np.ndarray:
    root = np.sqrt(pixels / 255)
    cells = np.zeros((CELLS, CELLS, ORIENTATIONS))
    for y in range(SIDE):
        for x in range(SIDE):
            best = (0.0, 0.0, 0.0)
            for colour in range(3):
                down = root[y + 1, x, colour] - root[y - 1, x, colour] if 0 < y < SIDE - 1 else 0.0
                right = root[y, x + 1, colour] - root[y, x - 1, colour] if 0 < x < SIDE - 1 else 0.0
                best = max(best, (down**2 + right**2, down, right), key=lambda each: each[0])
            angle = math.atan2(best[1], best[2]) % math.pi / math.pi * ORIENTATIONS
            lower, share = int(angle), angle - int(angle)
            cell = cells[y // CELL, x // CELL]
            cell[lower % ORIENTATIONS] += math.sqrt(best[0]) * (1 - share)
            cell[(lower + 1) % ORIENTATIONS] += math.sqrt(best[0]) * share
    found = np.zeros_like(cells)
    for y in range(CELLS):
        for x in range(CELLS):
            for top in (y - 1, y):
                for left in (x - 1, x):
                    block = cells[max(top, 0) : top + 2, max(left, 0) : left + 2]
                    found[y, x] += np.minimum(cells[y, x] / math.sqrt((block**2).sum() + FAINT), LARGEST)
    return found.ravel()


def test_oriented_edges_match_a_loop_over_pixels() -> None:
    pixels = noise(2)
    expected = np.stack([edges_of_one(each) for each in pixels])
    assert np.allclose(oriented_edges(pixels), expected, atol=1e-4)


def test_colours_are_means_of_squares() -> None:
    pixels = noise(2)
    step = SIDE // 12
    expected = [pixels[1, y * step : y * step + step, x * step : x * step + step, 2].mean() / 255 for y, x in [(3, 7)]]
    assert np.allclose(colours(pixels)[1].reshape(12, 12, 3)[3, 7, 2], expected)


def test_image_features_of_many_pictures_are_those_of_each_alone() -> None:
    pixels = np.concatenate([noise(3)] * 90)
    assert np.array_equal(image_features(pixels)[257], image_features(pixels[257:258])[0])
    assert image_features(pixels[:0]).shape == (0, sum(BLOCKS))


def test_a_mirrored_contrast_has_the_same_edges_and_a_blank_picture_none() -> None:
    half = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    half[:, :, SIDE // 2 :] = 255
    assert np.allclose(oriented_edges(half), oriented_edges(255 - half))
    assert not oriented_edges(np.full((1, SIDE, SIDE, 3), 200, np.uint8)).any()


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="48 x 48 x 3"):
        image_features(np.zeros((1, 32, 32, 3), np.uint8))


def test_whitening_gives_uncorrelated_dimensions_of_variance_one_that_equal_the_singular_vectors() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((50, 6)) @ random.standard_normal((6, 6)) + 3
    found = whitening(features, 4)(features)
    assert np.allclose(found.T @ found / 50, np.eye(4))
    scaled = features - features.mean(axis=0)
    left, _, _ = np.linalg.svd(scaled, full_matrices=False)
    assert np.allclose(found @ found.T, left[:, :4] @ left[:, :4].T * 50)


def test_whitening_brings_blocks_to_one_size_and_drops_what_does_not_vary() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((40, 5))
    features[:, 4] = 7
    loud = features * np.array([1000, 1000, 1, 1, 1])
    assert whitening(features, 5).map_FD.shape[1] == 4
    one, two = (whitening(each, 1, (2, 3))(each) for each in (features, loud))
    assert np.allclose(abs(one), abs(two))
    with pytest.raises(ValueError, match="blocks of 4"):
        whitening(features, 2, (2, 2))
    assert whitening(np.ones((3, 2)), 2).map_FD.shape == (2, 0)


def test_whitening_of_fewer_items_than_features_is_that_of_their_products() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((12, 30)) * np.linspace(1, 3, 30)
    found = whitening(features, 5, (10, 20))
    # More copies of the same items take the other way to the same map.
    copied = whitening(np.concatenate([features] * 3), 5, (10, 20))
    assert np.allclose(found(features) @ found(features).T, copied(features) @ copied(features).T)
    assert whitening(features, 100).map_FD.shape == (30, 11)
    assert whitening(features[:1], 4).map_FD.shape == (30, 0)
    with pytest.raises(ValueError, match="one item or more"):
        whitening(features[:0], 4)


def test_the_discriminant_tells_classes_apart_by_what_their_members_share() -> None:
    random = np.random.default_rng(0)
    class_N = np.repeat(np.arange(60), 2)
    # Half of the dimensions belong to the class, the others differ between any two.
    features = np.concatenate([np.repeat(random.standard_normal((60, 10)), 2, axis=0), np.zeros((120, 10))], axis=1)
    features += random.standard_normal((120, 20)) * np.repeat([0.3, 2.0], 10)

    def found(mapped: np.ndarray) -> float:
        similar = directions(mapped) @ directions(mapped).T
        np.fill_diagonal(similar, -np.inf)
        return float((class_N[similar.argmax(axis=1)] == class_N).mean())

    assert found(features @ discriminant(features, class_N)) > 0.7 > 0.3 > found(features)


def test_the_discriminant_is_the_generalised_eigenproblem_of_total_and_shrunk_within_scatter() -> None:
    random = np.random.default_rng(1)
    class_N, features = random.integers(0, 12, 40), random.standard_normal((40, 3))
    features += random.standard_normal((12, 3))[class_N]
    found = discriminant(features, class_N)
    within, pairs = np.zeros((3, 3)), 0
    for label in set(class_N.tolist()):
        own = features[class_N == label]
        pairs += len(own) - 1
        within += sum(np.outer(each, each) for each in own - own.mean(axis=0))
    within /= pairs
    shrinkage = 3 / (3 + pairs)
    within = (1 - shrinkage) * within + shrinkage * within.trace() / 3 * np.eye(3)
    total = np.cov(features.T, bias=True)
    shares = np.linalg.eigvals(np.linalg.solve(within, total)).real
    # total - within, measured in within, is what classes add: its share weighs.
    between = np.sort(shares[shares > 1] - 1)
    assert np.allclose(np.sort(np.linalg.eigvalsh(found.T @ within @ found)), between / (1 + between))


def test_classes_of_one_member_tell_nothing_of_the_scatter_within() -> None:
    features = np.random.default_rng(0).standard_normal((6, 4))
    assert np.array_equal(discriminant(features, np.arange(6)), np.eye(4))
    same = np.repeat(features[:3], 2, axis=0)
    assert np.isfinite(discriminant(same, np.repeat(np.arange(3), 2))).all()
    assert np.isfinite(discriminant(np.zeros((6, 4)), np.zeros(6, np.int64))).all()


def test_text_features_are_words_and_their_pieces_as_rare_as_they_are() -> None:
    found = counts(["cat", "cat cat", "concat", "", "😀!"])
    cat, twice, longer, nothing, symbols = found.toarray()
    # <ca cat at> <cat cat> are the pieces of <cat>, <cat> with its ends.
    assert cat.sum() == 3 + 5
    assert np.array_equal(twice, 2 * cat)
    assert 0 < (cat * longer > 0).sum() < (cat > 0).sum()
    assert not nothing.any()
    assert symbols.any()
    assert found.shape == (5, PLACES)

    fitted = TextFeatures.fit(["red cat", "red dog", "red fox"])
    rows = fitted(["red cat", "red dog", "cat", "", "never seen"])
    alike = rows.products(rows)
    assert np.allclose(np.diag(alike), [1, 1, 1, 0, 1])
    assert alike[0, 2] > alike[0, 1] > 0


def test_words_that_mean_alike_are_alike_as_a_loop_over_their_pairs_says() -> None:
    words = ["cat", "dog", "house", "boat", "red"]
    meanings = WordMeanings.of(words, np.random.default_rng(0).standard_normal((5, 4)))
    texts = ["red cat", "dog dog", "a boat", "", "unknown", "cat-house"]
    plain, fitted = TextFeatures.fit(texts), TextFeatures.fit(texts, meanings)
    expected = plain.unscaled(texts).products(plain.unscaled(texts))
    held = [[word for word in re.findall(r"\w+", text) if word in words] for text in texts]
    rarity = {word: math.log((1 + len(texts)) / (1 + sum(word in own for own in held))) + 1 for word in words}
    for row, column in np.ndindex(len(texts), len(texts)):
        for left in held[row]:
            for right in held[column]:
                cosine = meanings.unit_WD[words.index(left)] @ meanings.unit_WD[words.index(right)]
                likeness = math.exp(NEARNESS * (cosine - 1))
                expected[row, column] += MEANING**2 * rarity[left] * rarity[right] * likeness
    rows = fitted.unscaled(texts)
    assert np.allclose(rows.products(rows), expected)
    length = np.sqrt(np.diag(expected))
    scaled = expected / np.where(length > 0, length, 1) / np.where(length > 0, length, 1)[:, None]
    assert np.allclose(fitted(texts).products(fitted(texts)), scaled)


def test_a_word_that_no_text_has_lies_where_words_that_mean_alike_do() -> None:
    words = ["horse", "pony", "ship", "boat"]
    vectors = np.array([[1.0, 0, 0], [1, 0.1, 0], [0, 0, 1], [0, 0.1, 1]])
    meanings, target = WordMeanings.of(words, vectors), np.eye(2)
    plain = text_regression(["horse", "ship"], target, seed=0)
    knowing = text_regression(["horse", "ship"], target, seed=0, meanings=meanings)
    assert not plain(["pony"]).any()
    pony, boat = knowing(["pony", "boat"])
    assert pony[0] > 3 * abs(pony[1])
    assert boat[1] > 3 * abs(boat[0])
    summed = knowing.sums(["pony", "boat"]).sum(axis=0)
    (whole,) = knowing(["pony boat"])
    assert np.allclose(summed / np.linalg.norm(summed), whole / np.linalg.norm(whole))


def test_kernel_ridge_matches_the_normal_equations_and_its_landmarks_do_where_they_are_all() -> None:
    texts = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("cat", "dog", "house", "boat")]
    features = TextFeatures.fit(texts)(texts)
    target = np.random.default_rng(0).standard_normal((12, 5))
    used = np.unique(features.feature_TV.indices)
    dense = features.feature_TV[:, used].toarray()
    weights = np.linalg.solve(dense.T @ dense + 0.3 * np.eye(len(used)), dense.T @ target)
    exact = kernel_ridge(features, target, seed=0)(features)
    assert np.allclose(exact, dense @ weights)
    spanned = kernel_ridge(features, target, seed=0, exact=0, landmarks=12)(features)
    assert np.allclose(spanned, exact, atol=1e-4)
    fewer = kernel_ridge(features, target, seed=0, exact=0, landmarks=9)(features)
    assert 0 < np.abs(fewer - exact).mean() < np.abs(exact).mean()
    with pytest.raises(ValueError, match="12 rows and targets of 3"):
        kernel_ridge(features, target[:3], seed=0)


@pytest.mark.parametrize("exact", [100, 0])
def test_a_row_that_counts_three_times_is_like_three_rows(exact: int) -> None:
    texts, target = ["red cat", "blue cat", "red house"], np.random.default_rng(0).standard_normal((3, 5))
    repeated = [0, 1, 1, 1, 2]
    fitted = TextFeatures.fit(texts)
    weighed = kernel_ridge(fitted(texts), target, seed=0, share_T=np.array([1.0, 3, 1]), exact=exact)
    copied = kernel_ridge(fitted([texts[row] for row in repeated]), target[repeated], seed=0, exact=exact)
    assert np.allclose(weighed(fitted(["blue house"])), copied(fitted(["blue house"])), atol=1e-4)


def test_rows_that_count_little_are_seldom_landmarks() -> None:
    texts = [f"word{number}" for number in range(200)]
    share_T = np.repeat([1.0, 0.01], 100)
    found = kernel_ridge(TextFeatures.fit(texts)(texts), np.eye(200), seed=0, share_T=share_T, exact=0, landmarks=50)
    known = TextFeatures.fit(texts)(texts[:100]).products(found.landmarks).max(axis=0)
    assert (known > 0.99).sum() > 45


def test_keywords_are_known_and_move_texts_little() -> None:
    texts, keywords, target = ["cat", "ship"], ["pony", "vessel"], np.eye(4)
    plain = text_regression(texts, target[:2], seed=0)
    knowing = text_regression(texts, target, seed=0, keywords=keywords)
    assert not plain(["vessel"]).any()
    assert knowing(["vessel"])[0].argmax() == 3
    assert np.allclose(knowing(texts), plain(texts), atol=0.02)
    assert np.array_equal(knowing.features.rarity_V, plain.features.rarity_V)
    turned = text_regression(texts, target[[0, 1, 3, 2]], seed=0, keywords=keywords[::-1])
    assert np.array_equal(knowing(["vessel pony"]), turned(["vessel pony"]))
