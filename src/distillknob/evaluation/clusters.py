"""Clusters of answers that are written alike, whatever they are about.

1. An answer becomes a pattern. A word or number of its prompt becomes a mark: `‹on›` where it stands behind the one
   quoted before, `‹back›` where it does not, so that the order of quoting is seen. Any other number becomes `‹number›`.
   Words that many of the prompts share say nothing about a problem and stay.
2. A pattern is the set of its 1- to 3-grams, weighted by tf-idf, in a latent space (LSA).
3. There, the directions are taken along which answers to one problem differ, relative to how problems differ among
   themselves (Fisher's discriminant, the other way round): long and short problems are no two ways of writing.
4. K-means, whose mean silhouette (Rousseeuw, J. Comput. Appl. Math. 20:53, 1987) is set beside that of points without
   clusters: normal ones, as widely spread along the same directions (the idea of the gap statistic: Tibshirani, Walther
   & Hastie, J. R. Stat. Soc. B 63:411, 2001). Of the numbers up to 6 whose clusters hold 2 % of the answers each, it is
   the smallest that exceeds them by seven tenths of the largest excess. One cluster, where none exceeds them by 0.1.

Who wrote an answer is not looked at, so that shares of clusters may be compared between models. Everything is drawn
from fixed seeds. Left out on purpose: embeddings of a language model, another model that a calibration would have to
load, and by which answers lie together that say the same rather than those that are written alike.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.metrics import silhouette_score

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

ON, BACK, NUMBER = "‹on›", "‹back›", "‹number›"
MOST_CLUSTERS = 6
LEAST_EXCESS = 0.1  # of a silhouette above that of points without clusters
NEARLY_BEST = 0.7  # of the largest excess: fewer clusters are preferred from there
LEAST_SHARE = 0.02  # of the answers: in a cluster, or with an n-gram that counts
SHARED = 0.1  # a word in more than this share of the prompts is none of a problem's own
LONGEST = 500  # pieces of an answer that are looked at, from its start
LATENT, RIDGE = 50, 1.0  # dimensions; how much of the mean variance is added to that between problems
WEAKEST, MOST_DIRECTIONS = 0.5, 5  # directions: relative to the strongest; at most
JUDGED = 2000  # answers, evenly spaced, of which a silhouette is made: it takes time by their square

# Scripts that set no spaces between words count by the character (Thai to Burmese, Khmer, kana, Han).
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_PIECE = re.compile(rf"\n|\d+(?:[.,]\d+)*|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|\S")


def pieces(text: str) -> list[str]:
    """Return the words, numbers, marks and line ends of a text, in lower case."""
    return [piece.lower() for piece in _PIECE.findall(text)]


def patterns(prompts: Sequence[str], answers: Sequence[str], problem_of: Sequence[int]) -> list[list[str]]:
    """Return each answer as a pattern without the words and numbers of its problem, at most `LONGEST` pieces long.

    `problem_of[i]` is the place in `prompts` of what `answers[i]` answers."""
    asked = [pieces(prompt) for prompt in prompts]
    prompts_with = Counter(piece for prompt in asked for piece in set(prompt))
    most = max(1.0, SHARED * len(prompts))
    places: list[dict[str, list[int]]] = []
    for prompt in asked:
        own: dict[str, list[int]] = {}
        for place, piece in enumerate(prompt):
            if piece[0].isdigit() or (piece[0].isalpha() and prompts_with[piece] <= most):
                own.setdefault(piece, []).append(place)
        places.append(own)
    return [_pattern(answer, places[problem]) for answer, problem in zip(answers, problem_of, strict=True)]


def _pattern(answer: str, places: dict[str, list[int]]) -> list[str]:
    pattern, last = [], -1
    for piece in pieces(answer)[:LONGEST]:
        quoted = places.get(piece)
        if quoted is None:
            pattern.append(NUMBER if piece[0].isdigit() else piece)
            continue
        behind = bisect_right(quoted, last)
        pattern.append(ON if behind < len(quoted) else BACK)
        last = quoted[behind] if behind < len(quoted) else quoted[0]
    return pattern


@dataclass(frozen=True)
class Clusters:
    """`labels` [N] is the cluster of each answer, from 0; `nearest[c]` is the place of the answer nearest to the centre
    of cluster c. `silhouette` is None where there is one cluster."""

    labels: Labels
    nearest: list[int]
    silhouette: float | None


def cluster(prompts: Sequence[str], answers: Sequence[str], problem_of: Sequence[int]) -> Clusters:
    """Cluster the answers by how they are written. Those that say nothing are a cluster of their own.

    `problem_of[i]` is the place in `prompts` of what `answers[i]` answers. There is at least one answer.
    """
    written = [i for i, answer in enumerate(answers) if answer.strip()]
    labels, nearest, silhouette = np.zeros(len(answers), dtype=np.int64), [], None
    if written:
        own = [problem_of[i] for i in written]
        points = _points(patterns(prompts, [answers[i] for i in written], own), own)
        apart, silhouette = _apart(points)
        for label in range(int(apart.max()) + 1):
            members = np.flatnonzero(apart == label)
            distances = ((points[members] - points[members].mean(0)) ** 2).sum(1)
            nearest.append(written[members[int(distances.round(9).argmin())]])
        labels[written] = apart
    if len(written) < len(answers):
        silent = np.setdiff1d(np.arange(len(answers)), written)
        labels[silent] = len(nearest)
        nearest.append(int(silent[0]))
    return Clusters(labels, nearest, silhouette)


def likened(
    prompts: Sequence[str],
    clustered: Sequence[str],
    clustered_of: Sequence[int],
    labels: Labels,
    answers: Sequence[str],
    problem_of: Sequence[int],
) -> Labels:
    """Return for each of the further `answers` the label of the clustered answer that is written most like it: the
    nearest by the angle between their n-grams, weighted by tf-idf. −1 for one that says nothing, or has no n-gram in
    common with any.

    For whether another model writes in the ways of this one. To cluster the answers of both together finds who wrote
    them, or who is right, sooner than how they are written. The other arguments are those of `cluster`, for both.
    """
    hashed = [
        HashingVectorizer(analyzer=_grams, alternate_sign=False, norm=None).transform(patterns(prompts, texts, own))
        for texts, own in ((clustered, clustered_of), (answers, problem_of))
    ]
    weights = TfidfTransformer().fit(hashed[0])
    known, new = (weights.transform(counts) for counts in hashed)
    nearest: list[int] = []
    for start in range(0, new.shape[0], JUDGED):
        likeness = (new[start : start + JUDGED] @ known.T).toarray()
        best = likeness.argmax(1)
        alike = likeness[np.arange(len(best)), best] > 0
        nearest += np.where(alike, np.asarray(labels)[best], -1).tolist()
    return np.array(nearest, dtype=np.int64)


def _grams(pattern: Sequence[str]) -> set[str]:
    grams = {" ".join(pattern[i : i + n]) for n in (1, 2, 3) for i in range(len(pattern) - n + 1)}
    return {gram.encode("utf-8", "replace").decode() for gram in grams}  # half a surrogate pair can't be hashed


def _points(patterns: Sequence[Sequence[str]], problem_of: Sequence[Hashable]) -> Floats:
    """The answers as points [N, D]; of no width in any direction (D = 1), where answers to one problem don't differ."""
    nothing = np.zeros((len(patterns), 1))
    if len(set(map(tuple, patterns))) < 2:
        return nothing
    # Hashed: long answers have millions of n-grams, of which few are common enough to count.
    hashed = HashingVectorizer(analyzer=_grams, alternate_sign=False, norm=None).transform(patterns)
    common = np.flatnonzero(hashed.getnnz(0) >= max(2.0, LEAST_SHARE * len(patterns)))
    dimensions = min(LATENT, len(common) - 1, len(patterns) - 1)
    if dimensions < 1:
        return nothing
    weighted = TfidfTransformer().fit_transform(hashed[:, common])
    latent = TruncatedSVD(dimensions, random_state=0).fit_transform(weighted)
    latent -= latent.mean(0)

    within, between = _scatters(latent, problem_of)
    spread = np.trace(within + between)
    if np.trace(within) <= 1e-9 * max(spread, 1e-9):
        return nothing
    root = np.linalg.inv(np.linalg.cholesky(between + RIDGE * spread / dimensions * np.eye(dimensions)))
    ratios, vectors = np.linalg.eigh(root @ within @ root.T)  # from the smallest
    strong = np.flatnonzero(ratios >= WEAKEST * ratios[-1])[-MOST_DIRECTIONS:]
    points: Floats = latent @ root.T @ vectors[:, strong] * np.sqrt(ratios[strong])
    return points


def _scatters(latent: Floats, problem_of: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """The covariances of answers to one problem, and of what problems differ by themselves, without what the means of
    a few answers differ by chance."""
    index: dict[Hashable, int] = {}
    groups = np.array([index.setdefault(problem, len(index)) for problem in problem_of])
    sizes = np.bincount(groups)
    means = np.zeros((len(index), latent.shape[1]))
    np.add.at(means, groups, latent)
    means /= sizes[:, None]
    inside = latent - means[groups]
    within = inside.T @ inside / max(len(latent) - len(index), 1)
    between = means[groups].T @ means[groups] / len(latent) - within * len(index) / len(latent)
    values, vectors = np.linalg.eigh(between)
    return within, (vectors * np.maximum(values, 0.0)) @ vectors.T


def _apart(points: Floats) -> tuple[Labels, float | None]:
    """The cluster of each point, from 0, by the rule of this module, and their silhouette."""
    one = np.zeros(len(points), dtype=np.int64)
    spread = points.std(0)
    distinct = len(np.unique(points.round(9), axis=0))
    if distinct < 2:
        return one, None
    rng = np.random.default_rng(0)
    plain = [rng.normal(size=(min(len(points), JUDGED // 2), points.shape[1])) * spread for _ in range(2)]
    tried: list[tuple[float, Labels, float]] = []
    for k in range(2, min(MOST_CLUSTERS, distinct, len(points) - 1) + 1):
        labels = _k_means(points, k)
        if np.bincount(labels, minlength=k).min() < max(2.0, LEAST_SHARE * len(points)):
            continue
        silhouette = _silhouette(points, labels)
        excess = silhouette - float(np.mean([_silhouette(other, _k_means(other, k)) for other in plain]))
        tried.append((excess, labels, silhouette))
    largest = max((excess for excess, _, _ in tried), default=0.0)
    if largest < LEAST_EXCESS:
        return one, None
    _, labels, silhouette = next(one for one in tried if one[0] >= NEARLY_BEST * largest)
    return labels, silhouette


def _k_means(points: Floats, k: int) -> Labels:
    labels: Labels = KMeans(k, n_init=3, random_state=0).fit(points).labels_.astype(np.int64)
    return labels


def _silhouette(points: Floats, labels: Labels) -> float:
    every = -(-len(points) // JUDGED)
    if len(np.unique(labels[::every])) < 2:
        return 0.0
    return float(silhouette_score(points[::every], labels[::every]))
