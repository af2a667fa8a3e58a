"""Templates: what stands for a person of several faces.

The mean of all, or one mean for each look. The mean of faces that age, beard or glasses set apart
lies between them and resembles none; a look is a group of faces that resemble their mean, and a
person is then as similar to a probe as the most similar of their looks.
"""

from __future__ import annotations

import numpy as np

from facesearch.values import F32, I64

ALIKE = 0.4
"""Cosine to the mean of a look from which a face belongs to it; see docs/levers.md."""
MOST = 512
"""Faces of a person that are grouped, the first enrolled; later ones join the nearest look."""


def templates(vectors: F32, owner: I64, people: int, *, by_look: bool = False) -> tuple[F32, I64]:
    """The templates of each person.

    Args:
        vectors: (F, D) unit vectors.
        owner: (F,) the person of each, 0 up to `people`.
        people: how many there are; one without faces has a template of zeros.
        by_look: a template for each look; else one a person.

    Returns:
        (T, D) float32 normalised means, person by person; a single face is left as it is. And
        (people,) the first template of each.
    """
    starts, group = np.arange(people), owner
    if by_look:
        starts, group = _grouped(vectors, owner, people)
    total = max(people, int(group.max(initial=-1)) + 1)
    sums = np.zeros((total, vectors.shape[1]), np.float32)
    np.add.at(sums, group, vectors)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    length[np.bincount(group, minlength=total) == 1] = 1.0
    np.divide(sums, np.maximum(length, np.finfo(np.float32).tiny), out=sums)
    return sums, starts


def cosines(
    faces: F32, owner: I64, of: I64, vectors: F32, query: I64, *, by_look: bool = False
) -> F32:
    """The cosine of pairs of a person's best template and a query.

    Args:
        faces: (F, D) unit vectors.
        owner: (F,) the person of each.
        of: (P,) the person of each pair: every person with faces at least once.
        vectors: (Q, D) the queries, unit vectors.
        query: (P,) the query of each pair.
        by_look: as for `templates`.
    """
    people = int(of.max(initial=-1)) + 1
    means, starts = templates(faces, owner, people, by_look=by_look)
    counts = np.diff(starts, append=len(means))[of]  # templates of each pair
    ends = np.cumsum(counts)
    each = np.repeat(starts[of] - ends + counts, counts) + np.arange(counts.sum())
    found = np.einsum("nd,nd->n", means[each], vectors[np.repeat(query, counts)])
    return np.asarray(np.maximum.reduceat(found, ends - counts), np.float32)


def _grouped(vectors: F32, owner: I64, people: int) -> tuple[I64, I64]:
    """The number of each person's first look, and of each face's look."""
    faces = np.bincount(owner, minlength=people)
    ends = np.cumsum(faces)
    order = np.argsort(owner, kind="stable")
    look = np.zeros(len(owner), np.int64)
    count = np.ones(people, np.int64)
    for person in np.flatnonzero(faces > 1).tolist():
        rows = order[ends[person] - faces[person] : ends[person]]
        look[rows] = looks(vectors[rows])
        count[person] = look[rows].max() + 1
    starts = np.cumsum(count) - count
    return starts, starts[owner] + look


def looks(vectors: F32, alike: float = ALIKE) -> I64:
    """The look of each face.

    In order, each face joins the look whose mean it resembles most, or founds one if it resembles
    none; then, once more, every face joins the nearest of the means found.

    Args:
        vectors: (N, D) unit vectors of one person, N at least 1, in order of enrolment.
        alike: see `ALIKE`.

    Returns:
        (N,) int64 numbers of looks, from 0 without a gap.
    """
    sums = np.zeros((0, vectors.shape[1]), np.float32)
    for vector in vectors[:MOST]:
        cosine = _unit(sums) @ vector
        nearest = int(cosine.argmax()) if len(sums) else -1
        if nearest >= 0 and cosine[nearest] >= alike:
            sums[nearest] += vector
        else:
            sums = np.concatenate([sums, vector[None]])
    found = (vectors @ _unit(sums).T).argmax(axis=1)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def _unit(sums: F32) -> F32:
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.maximum(length, np.finfo(np.float32).tiny), np.float32)
