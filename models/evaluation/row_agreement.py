"""Whether the champion finds tonight's rows as it finds the released ones."""

# N = rows, H = other rows, D = embedding, G = rows of one value, Q = queries and candidates, V = values

import math
from collections.abc import Sequence

import numpy as np

from pairloom.models.arrays import Embeddings, Indices, Mask, Values
from pairloom.models.evaluation.agreement import Contrasts, Estimate, agreement, mean_estimate
from pairloom.models.evaluation.config import GateConfig
from pairloom.models.evaluation.findings import FEWEST, Finding, found, matters
from pairloom.models.evaluation.grid import on_grid
from pairloom.models.evaluation.similarity import TIE

CLEAR = 3.0
"""Standard errors that are no chance, however often one looks: one in 700."""
DRAWS = 200
K = 10


def telling(held: Contrasts, config: GateConfig) -> Finding:
    """Whether the champion tells the pairs of items that it wasn't trained on from mismatched ones: else unsure."""
    measure, count = "own text · image similarity", len(held.value_N)
    if held.texts < FEWEST:
        said = f"the release has {count:,} items of {held.texts:,} texts that the champion was not trained on"
        return Finding(measure, f"{count:,} held-out items", "", "unsure", f"{said}: too few to judge rows by")
    own = mean_estimate(held, confidence=config.confidence, seed=config.seed)
    shown = f"{own} above mismatched pairs, of {count:,} held-out items"
    if own.low > 0:
        return found(measure, shown, "")
    said = f"the champion doesn't tell the pairs of held-out items from mismatched ones ({own} above them)"
    return Finding(measure, shown, "", "unsure", f"{said}: rows can't be judged by it")


def agreeing(
    what: str, kinds: Sequence[tuple[Contrasts, Contrasts]], released: int, config: GateConfig, *, chance: bool = False
) -> Finding:
    """Whether texts and images of some rows agree: of each kind of them, beside held-out items of that kind.

    With `chance` they are held only where they agree no better than mismatched pairs, by half the floor.
    """
    kinds = [each for each in kinds if len(each[0].value_N)]
    count, texts = sum(len(rows.value_N) for rows, _ in kinds), sum(rows.texts for rows, _ in kinds)
    measure, shown = f"agreement of {what}", f"{count:,} rows of {texts:,} texts"
    if not matters(count, released, config.rows) or texts < FEWEST:
        return found(measure, "", f"{shown}: too few to tell or to matter" if count else "no rows")
    own = agreement(kinds, confidence=config.confidence, seed=config.seed)
    low = own.high < config.rows.min_agreement / (2 if chance else 1) and (own.low <= 0 or not chance)
    return found(measure, "1", f"{own} of {shown}", _disagreement(what, own, shown, config) if low else "")


def beyond(what: str, rows: int, released: int, config: GateConfig) -> Finding:
    """Rows that can't be judged: their texts are none of the release's, and it has no held-out items like that."""
    said = f"{rows:,} {what} have texts unknown to the champion, and the release has no held-out items like that"
    if not matters(rows, released, config.rows):
        return found(f"agreement of {what} with unknown texts", "", f"{rows:,} rows: too few to matter")
    return Finding(f"agreement of {what} with unknown texts", "", f"{rows:,} rows", "unsure", f"{said} to judge by")


def _disagreement(what: str, own: Estimate, shown: str, config: GateConfig) -> str:
    return (
        f"texts and images of {what} agree by {own} in {shown}, where mismatched pairs have 0 and held-out items of "
        f"the release 1: below gate.rows.min_agreement ({config.rows.min_agreement:.2f})"
    )


def at_most(hits: int, tries: int, share: float) -> float:
    """The chance of no more than so many hits, where each try hits with the chance `share`."""
    return sum(math.comb(tries, each) * share**each * (1 - share) ** (tries - each) for each in range(hits + 1))


def implausible(count_V: Indices, rows: int, commonest: int, released: int, config: GateConfig) -> Mask:
    """(V,): which values come too often among some rows for being at most as common as the commonest released one.

    By Chernoff's bound of the binomial tail, for all values at once at `config.confidence`.
    """
    usual = (commonest + 1) / (released + 2)
    share_V = np.minimum(count_V / max(1, rows), 1 - 1e-12)
    apart_V = share_V * np.log(np.maximum(share_V, 1e-12) / usual) + (1 - share_V) * np.log((1 - share_V) / (1 - usual))
    bound = (1 - config.confidence) / max(1, len(count_V))
    return np.asarray((share_V > usual) & (np.exp(-rows * apart_V) < bound))


def concentrated(group_G: Indices, group_N: Indices, seed: int) -> bool:
    """Whether the rows of one value are of clearly fewer groups than as many released items usually are."""
    random, size = np.random.default_rng(seed), min(len(group_G), len(group_N))
    drawn = [len(np.unique(random.choice(group_N, size, replace=False))) for _ in range(DRAWS)]
    return bool(np.mean(drawn) - len(np.unique(group_G)) > CLEAR * np.std(drawn))


def related(shared_D: Embeddings, own_GD: Embeddings, others: Sequence[Embeddings], seed: int) -> bool:
    """Whether the images of one text, say, have anything to do with it, or with one another.

    Beyond what each of some collections of `others` (H, D) has: held-out items, and the rest of the night's rows, which
    may be more alike.
    """
    return all(_nearer(shared_D, own_GD, other_HD) or _more_alike(own_GD, other_HD, seed) for other_HD in others)


def _nearer(shared_D: Embeddings, own_GD: Embeddings, other_HD: Embeddings) -> bool:
    near_G, usual_H = own_GD @ shared_D, other_HD @ shared_D
    return bool(near_G.mean() - usual_H.mean() > CLEAR * usual_H.std() / np.sqrt(len(own_GD)))


def _more_alike(own_GD: Embeddings, other_HD: Embeddings, seed: int) -> bool:
    random, size = np.random.default_rng(seed), min(len(own_GD), len(other_HD))
    drawn = [_likeness(other_HD[random.permutation(len(other_HD))[:size]]) for _ in range(DRAWS)]
    return bool(_likeness(own_GD) - np.mean(drawn) > CLEAR * np.std(drawn))


def _likeness(vector_GD: Embeddings) -> float:
    """Mean similarity of two different ones."""
    count = len(vector_GD)
    total = np.square(vector_GD.sum(axis=0, dtype=np.float64)).sum() - np.square(vector_GD, dtype=np.float64).sum()
    return float(total / max(1, count * (count - 1)))


def poured(what: str, count: int, rows: int, commonest: int, released: int) -> str:
    """The sentence against one value that stands in many rows which have nothing else in common."""
    return (
        f"{count:,} of {rows:,} new or changed rows have the same {what} and nothing else in common; the commonest "
        f"released ones are those of {commonest:,} of {released:,} items"
    )


def recall(query_QD: Embeddings, candidate_QD: Embeddings, positive_QQ: Mask) -> Values:
    """(Q,): 1 where one of a query's positives is among the ten best candidates, else 0; ties count against it."""
    score_QQ = on_grid(query_QD) @ on_grid(candidate_QD).T
    best_Q = np.where(positive_QQ, score_QQ, -np.inf).max(axis=1)
    before_Q = ((score_QQ >= best_Q[:, None] - TIE) & ~positive_QQ).sum(axis=1)
    found_Q: Values = (before_Q < K).astype(np.float64)
    return found_Q


def kept(measure: str, before_Q: Values, after_Q: Values, changed_Q: Mask, config: GateConfig) -> Finding:
    """Whether the champion still finds the release's validation items, as they are tonight, among themselves.

    Held where recall fell by more than `max_regression`, not by chance, and of the changed ones that were found fewer
    are found again than `min_agreement` of what is found of any (of half, where more are): another true caption, or
    picture, is as another item, and harder to find than those that were learned.
    """
    shown = f"{before_Q.mean():.3f} of {len(before_Q):,} items"
    tonight = f"{after_Q.mean():.3f}, {int(changed_Q.sum()):,} of them changed"
    against = ""
    if (before_Q - after_Q).mean() > config.max_regression:
        fall = mean_estimate(
            Contrasts(after_Q - before_Q, np.arange(len(before_Q))), confidence=config.confidence, seed=config.seed
        )
        found_Q = changed_Q & (before_Q > 0)
        usual = config.rows.min_agreement * min(float(before_Q.mean()), 0.5)
        left = at_most(int(np.ceil(after_Q[found_Q].sum())), int(found_Q.sum()), usual)
        if fall.high < 0 and left < (1 - config.confidence) / 2:
            against = (
                f"the champion's {measure} fell from {before_Q.mean():.4f} to {after_Q.mean():.4f} on the release's "
                f"validation items as they are tonight, by more than max_regression ({config.max_regression:.4f})"
            )
    return found(measure, shown, tonight, against)
