"""Galleries of any size: embeddings drawn from the statistics of real ones.

The model is that of PLDA: a person is a point drawn from a normal distribution, a photo is the
person plus a deviation drawn from another, and an embedding is that sum made unit length.

    person = mean + N(0, between)
    photo  = person + s N(0, within),  s = exp(scatter N(0, 1) - scatter^2)
    face   = photo / |photo|

`s` makes some photos worse than others; its mean square is 1, so that `within` stays the covariance
of the deviations. What ships with the package are these aggregates of LFW's embeddings and no
vector of anybody. `benchmarks/gallery.py` fits them and compares how much HNSW and IVF lose on
generated faces with what they lose on real ones that were not fitted; docs/search.md has the
figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import UsageError
from facesearch.values import F32, I64

BLOCK = 16_384
"""People drawn at a time; part of what a seed means."""
_PAIRS = 4
"""Most photos of a person that are compared with each other to fit `scatter`."""
_AGGREGATES = Path(__file__).with_name("sface_faces.npz")

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FaceStatistics:
    """Aggregates of labelled embeddings.

    Attributes:
        mean: (D,) of people.
        between: (D, D) covariance of people around it.
        within: (D, D) covariance of photos around their person, everybody counting alike.
        scatter: standard deviation of the logarithm of a photo's own deviation.
        people: how many were fitted.
        faces: how many photos of them.
    """

    mean: Float
    between: Float
    within: Float
    scatter: float
    people: int
    faces: int


def fit(vectors: F32, people: I64) -> FaceStatistics:
    """The aggregates of labelled unit vectors, by moments.

    Args:
        vectors: (N, D) float32 unit norm.
        people: (N,) whose each is; some people must have several.

    Raises:
        UsageError: nobody has two faces.
    """
    _, who, counts = np.unique(people, return_inverse=True, return_counts=True)
    x = vectors.astype(np.float64)
    centres = np.zeros((len(counts), x.shape[1]))
    np.add.at(centres, who, x)
    centres /= counts[:, None]
    several = np.flatnonzero(counts[who] > 1)
    if not len(several):
        raise UsageError("statistics of faces need people with several photos")
    n = counts[who[several]]
    # n deviations from the mean of n have (n - 1) / n of the variance; each person weighs the same.
    deviations = (x - centres[who])[several] / np.sqrt(n - 1.0)[:, None]
    within = deviations.T @ deviations / np.count_nonzero(counts > 1)
    first = np.unique(who, return_index=True)[1]
    between = _positive(np.cov(x[first].T) - within)
    return FaceStatistics(
        x[first].mean(axis=0),
        between,
        within,
        _scatter(x[several], who[several], within),
        len(counts),
        len(x),
    )


def shipped_statistics(dim: int = 128) -> FaceStatistics:
    """The aggregates of SFace's embeddings of LFW (128 dimensions), or those resampled to `dim`.

    Other dimensions are not fitted to anything: the eigenvalues of both covariances, in the axes of
    their sum, are interpolated to `dim` of the same total, and the axes turned at random.

    Raises:
        UsageError: `dim` is below 2.
    """
    with np.load(_AGGREGATES) as stored:
        fitted = FaceStatistics(
            mean=stored["mean"].astype(np.float64),
            between=_symmetric(stored["between"]),
            within=_symmetric(stored["within"]),
            scatter=float(stored["scatter"]),
            people=int(stored["people"]),
            faces=int(stored["faces"]),
        )
    if dim < 2:
        raise UsageError(f"{dim} dimensions: a gallery needs at least 2")
    return fitted if dim == len(fitted.mean) else _resampled(fitted, dim)


def save_statistics(statistics: FaceStatistics, path: Path = _AGGREGATES) -> None:
    """Write what `shipped_statistics` reads: upper triangles, in float32."""
    upper = np.triu_indices(len(statistics.mean))
    np.savez_compressed(
        path,
        mean=statistics.mean.astype(np.float32),
        between=statistics.between[upper].astype(np.float32),
        within=statistics.within[upper].astype(np.float32),
        scatter=statistics.scatter,
        people=statistics.people,
        faces=statistics.faces,
    )


class Population:
    """As many people as anybody wants, each with as many photos: person i is always the same.

    Args:
        statistics: what their faces are like.
        seed: of everything drawn.
    """

    def __init__(self, statistics: FaceStatistics, seed: int = 0) -> None:
        self._seed = seed
        self._scatter = np.float32(statistics.scatter)
        self._mean = statistics.mean.astype(np.float32)
        self._between = np.linalg.cholesky(statistics.between).T.astype(np.float32)
        self._within = np.linalg.cholesky(statistics.within).T.astype(np.float32)

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return len(self._mean)

    def faces(self, start: int, stop: int, photo: int = 0) -> F32:
        """One photo each of people `start` to `stop`.

        Args:
            start: the first person.
            stop: the one after the last.
            photo: which of their photos; 0 is the one to enrol, others make mated probes.

        Returns:
            (stop - start, D) float32 unit norm.
        """
        blocks = [self._part(b, start, stop, photo) for b in _blocks(start, stop)]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *blocks])

    def stream(self, stop: int, photo: int = 0) -> Iterator[F32]:
        """`faces(0, stop, photo)` in parts of `BLOCK` people, which is all the memory it takes."""
        for block in _blocks(0, stop):
            yield self._part(block, 0, stop, photo)

    def _part(self, block: int, start: int, stop: int, photo: int) -> F32:
        """The people of a block that lie between `start` and `stop`."""
        people = np.random.default_rng((self._seed, block, 0))
        photos = np.random.default_rng((self._seed, block, 1 + photo))
        person = people.standard_normal((BLOCK, self.dim), np.float32) @ self._between + self._mean
        worse = self._scatter * photos.standard_normal((BLOCK, 1), np.float32) - self._scatter**2
        face = person + photos.standard_normal((BLOCK, self.dim), np.float32) @ self._within * (
            np.exp(worse)
        )
        face = face[max(0, start - block * BLOCK) : stop - block * BLOCK]
        return np.asarray(face / np.linalg.norm(face, axis=1, keepdims=True), np.float32)


def another_photo(statistics: FaceStatistics, faces: F32, seed: int) -> F32:
    """Another photo of the person of each face: a person that it may be, and a new deviation.

    With K = between (between + within)^-1, the person of a photo x is drawn from
    N(mean + K (x - mean), between - K between), as the model above has it.

    Args:
        statistics: what faces are like.
        faces: (N, D) float32 unit norm.
        seed: of what is drawn.

    Returns:
        (N, D) float32 unit norm.
    """
    rng = np.random.default_rng(seed)
    between, within = statistics.between, statistics.within
    gain = np.linalg.solve(between + within, between).T
    left = between - gain @ between
    persons = statistics.mean + (faces - statistics.mean) @ gain.T
    persons += rng.standard_normal(faces.shape) @ np.linalg.cholesky((left + left.T) / 2).T
    worse = statistics.scatter * rng.standard_normal((len(faces), 1)) - statistics.scatter**2
    deviations = rng.standard_normal(faces.shape) @ np.linalg.cholesky(within).T
    photos = persons + deviations * np.exp(worse)
    return np.asarray(photos / np.linalg.norm(photos, axis=1, keepdims=True), np.float32)


def write_gallery(path: Path, population: Population, rows: int, photo: int = 0) -> None:
    """Stream one photo of people 0 to `rows` to a .npy file of (rows, D) float16.

    Raises:
        OSError: the file cannot be written.
    """
    shape = (rows, population.dim)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    start = 0
    for part in population.stream(rows, photo):
        out[start : start + len(part)] = part
        start += len(part)
    out.flush()


def _blocks(start: int, stop: int) -> range:
    return range(start // BLOCK, -(-stop // BLOCK))


def _scatter(vectors: Float, who: NDArray[np.intp], within: Float) -> float:
    """The spread of photos' deviations, from pairs of photos of one person.

    With d the difference of two photos, q = d' within^-1 d / 2D is (s1^2 + s2^2) / 2 times a
    chi-square of D degrees over D. The variance of log q is then about 2 scatter^2 + 2 / D.
    """
    inverse = np.linalg.inv(within)
    logs = []
    for person in np.unique(who):
        of = vectors[who == person][:_PAIRS]
        a, b = np.triu_indices(len(of), 1)
        d = of[a] - of[b]
        q = np.einsum("nd,de,ne->n", d, inverse, d)
        logs.append(np.log(q[q > 0]))
    spread = float(np.var(np.concatenate(logs))) - 2.0 / vectors.shape[1]
    return float(np.sqrt(max(0.0, spread / 2.0)))


def _positive(covariance: Float) -> Float:
    """The nearest matrix whose eigenvalues are at least a thousandth of their mean."""
    values, axes = np.linalg.eigh(covariance)
    raised: Float = (axes * np.maximum(values, 1e-3 * values.mean())) @ axes.T
    return raised


def _symmetric(upper: NDArray[np.float32]) -> Float:
    dim = int(np.sqrt(2 * len(upper)))
    full = np.zeros((dim, dim))
    full[np.triu_indices(dim)] = upper
    return full + np.triu(full, 1).T


def _resampled(fitted: FaceStatistics, dim: int) -> FaceStatistics:
    _, axes = np.linalg.eigh(fitted.between + fitted.within)
    turn, _ = np.linalg.qr(np.random.default_rng(dim).standard_normal((dim, dim)))
    at = np.linspace(0, 1, dim)

    def stretched(covariance: Float) -> Float:
        values = np.diag(axes.T @ covariance @ axes)
        more = np.interp(at, np.linspace(0, 1, len(values)), values)
        matrix: Float = (turn * (more * values.sum() / more.sum())) @ turn.T
        return (matrix + matrix.T) / 2

    return FaceStatistics(
        turn[:, 0] * np.linalg.norm(fitted.mean),
        stretched(fitted.between),
        stretched(fitted.within),
        fitted.scatter,
        fitted.people,
        fitted.faces,
    )
