"""An evaluation through the whole engine: enrol, index, identify every probe from its file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facesearch.engine import Engine
from facesearch.errors import UsageError
from facesearch.evaluate.audit import Twins, twins_of
from facesearch.evaluate.budget import Exact
from facesearch.evaluate.evaluation import Evidence, require_both_kinds
from facesearch.evaluate.lists import F64, Lists, Outcome, Probe, of_probes
from facesearch.evaluate.one_to_one import Comparisons
from facesearch.identify.decide import Identification
from facesearch.index.templates import templates
from facesearch.ingest.enroll import Entry, FaceChoice
from facesearch.store.collections import DEFAULT
from facesearch.store.gallery import Person
from facesearch.values import F32, I64, Embeddings, Failure, Identity, JSONValue, Threshold

TOP = 50
"""Candidates asked for a probe."""
MOST_COMPARISONS = 20_000_000
"""One-to-one comparisons, at most: of more, templates are drawn at random."""
MOST_TEMPLATES = 20_000
"""Templates compared with each other for the audit, at most; likewise."""
SAME_PHOTO = 0.999
"""A cosine that two photos of one person do not reach."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Run:
    """What was searched, and where its faces are.

    Attributes:
        evidence: to be measured.
        files: P paths of the probe photos.
        boxes: P boxes of the probe faces, in pixels of the upright photo; None where none is.
        face_ids: one enrolled face of each identity.
        failures: photos of the gallery that could not be enrolled.
    """

    evidence: Evidence
    files: tuple[str, ...]
    boxes: tuple[Box | None, ...]
    face_ids: Mapping[str, int]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to search.

    Attributes:
        probes: labelled probe photos.
        gallery: to enrol first; None for what is enrolled already.
        collection: searched.
        threshold: cosine to judge by; None for the engine's own.
        group: key of the metadata that tells people's group; None for no groups.
        source: what is searched with what, a line.
    """

    probes: Sequence[Entry]
    gallery: Sequence[Entry] | None
    collection: str = DEFAULT
    threshold: float | None = None
    group: str | None = None
    source: str = ""


def run(
    engine: Engine,
    plan: Plan,
    talk: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Run:
    """Search every probe.

    Args:
        engine: of an empty library where `plan.gallery` is given.
        plan: what to search.
        talk: told what is being done.
        progress: told after every probe how many of them are done.

    Raises:
        UsageError: nobody is enrolled, there are no probes of a kind, or none has the group's key.
        As `Engine.enroll` and `Engine.identify`.
    """
    failures: tuple[Failure, ...] = ()
    if plan.gallery is not None:
        talk(f"enrolling {len(plan.gallery)} photos")
        failures = tuple(engine.enroll(plan.gallery, plan.collection).failures)
        engine.build_index(plan.collection)
    people = [p for p in engine.identities(plan.collection) if p.faces]
    if not people:
        raise UsageError("nobody is enrolled: there is nothing to evaluate")
    labels = _Labels(people)
    meant = {labels(e.person) for e in plan.gallery or ()} | set(labels.enrolled)
    probes, notes = _distinct(plan)
    if not probes:
        raise UsageError("there are no probe photos")
    groups = None if plan.group is None else (plan.group, _groups(plan.group, probes, labels))
    require_both_kinds([labels(e.person) in meant for e in probes])
    talk(f"identifying {len(probes)} probes among {len(labels.enrolled)} people")
    answers: list[Probe] = []
    boxes: list[Box | None] = []
    vectors: list[F32] = []
    limit: Threshold | None = None
    stream = engine.identify_embedded(
        (e.path for e in probes), plan.collection, top=TOP, threshold=plan.threshold
    )
    for done, (entry, answer) in enumerate(zip(probes, stream, strict=True), 1):
        progress(done, len(probes))
        person = labels(entry.person)
        face = None if isinstance(answer, Failure) else _face(answer[0], entry.face)
        name = entry.path + _suffix(entry.face)
        if isinstance(answer, Failure) or face is None:
            outcome = Outcome.UNREADABLE if isinstance(answer, Failure) else Outcome.NO_FACE
            answers.append(Probe(name, person, person in meant, outcome=outcome))
            boxes.append(None)
            continue
        found, limit = answer[0].faces[face], answer[0].faces[face].threshold
        listed = [(c.external_id or c.name, c.score) for c in found.candidates]
        answers.append(Probe(name, person, person in meant, listed))
        boxes.append(found.box)
        vectors.append(_row(answer[1], face))
    lists = of_probes(answers, len(meant))
    talk("comparing faces exactly")
    known = _Templates.of(engine, plan.collection, labels)
    searched = np.array([box is not None for box in boxes])
    faces = np.concatenate(vectors) if vectors else np.zeros((0, known.vectors.shape[1]))
    faces = engine.compared(faces.astype(np.float32), plan.collection)
    own = known.columns(lists)[searched]
    evidence = Evidence(
        source=plan.source,
        lists=lists,
        threshold=limit,
        enrolled=labels.enrolled,
        exact=_exact(known, lists, faces, own, searched),
        twins=None if limit is None else _twins(known, limit.value, notes),
        comparisons=_comparisons(known, faces, own, lists.people[searched], notes),
        groups=groups,
        notes=tuple(notes + _same(lists)),
    )
    return Run(evidence, tuple(e.path for e in probes), tuple(boxes), known.face_ids, failures)


class _Labels:
    """Who is who: an identity goes by its external id where it has one, else by its name."""

    def __init__(self, people: Iterable[Identity]) -> None:
        self.enrolled = {p.external_id or p.name: p for p in people}
        self._by_name = {p.name: key for key, p in self.enrolled.items()}

    def __call__(self, person: Person) -> str:
        return person.external_id or self._by_name.get(person.name, person.name)


@dataclass(frozen=True, slots=True)
class _Templates:
    """What probes are compared with: N identities' templates, several each or one.

    Attributes:
        names: N identities.
        starts: (N,) first row of each identity.
        vectors: (M, D) float32, as they are compared.
        face_ids: one face of each identity.
    """

    names: tuple[str, ...]
    starts: I64
    vectors: F32
    face_ids: dict[str, int]

    @staticmethod
    def of(engine: Engine, collection: str, labels: _Labels) -> _Templates:
        """Templates as `Query` compares them, from the vectors that the index has."""
        key_of = {p.id: key for key, p in labels.enrolled.items()}
        ids = np.array(sorted(key_of), np.int64)
        faces = engine.live(engine.collection(collection)).faces_of(ids)
        order = np.lexsort((faces.face_ids, faces.identity_ids))
        found, starts, owner = np.unique(
            faces.identity_ids[order], return_index=True, return_inverse=True
        )
        vectors = faces.vectors[order]
        names = tuple(key_of[i] for i in found.tolist())
        face_ids = dict(zip(names, faces.face_ids[order][starts].tolist(), strict=True))
        fusion = engine.settings.identify.template
        if fusion != "best":
            by_look = fusion == "looks"
            vectors, starts = templates(
                vectors, owner.astype(np.int64), len(names), by_look=by_look
            )
        return _Templates(names, starts.astype(np.int64), vectors, face_ids)

    def columns(self, lists: Lists) -> I64:
        """(P,) which of the N each probe shows; -1 for none."""
        column = {name: n for n, name in enumerate(self.names)}
        return np.array(
            [
                column.get(label, -1) if mated else -1
                for label, mated in zip(lists.labels, lists.mated.tolist(), strict=True)
            ],
            np.int64,
        )

    def scores(self, faces: F32) -> F32:
        """(P, N) of each face and identity: that of its best template."""
        best: F32 = np.maximum.reduceat(faces @ self.vectors.T, self.starts, axis=1)
        return best

    def take(self, rows: I64) -> _Templates:
        """Some of the N identities, in ascending order."""
        ends = np.append(self.starts[1:], len(self.vectors))
        parts = [np.arange(self.starts[n], ends[n]) for n in rows.tolist()]
        return _Templates(
            tuple(self.names[n] for n in rows.tolist()),
            np.cumsum([0, *(len(p) for p in parts[:-1])]).astype(np.int64),
            self.vectors[np.concatenate(parts)],
            {},
        )


def _distinct(plan: Plan) -> tuple[list[Entry], list[str]]:
    """The probes that are no gallery photos and do not repeat, and what to say of the rest."""
    enrolled = {(e.path, e.face) for e in plan.gallery or ()}
    distinct = list({(e.path, e.face): e for e in plan.probes}.values())
    kept = [e for e in distinct if (e.path, e.face) not in enrolled]
    notes = []
    if len(kept) < len(distinct):
        notes.append(f"{len(distinct) - len(kept)} probes left out: they are gallery photos")
    if len(distinct) < len(plan.probes):
        notes.append(f"{len(plan.probes) - len(distinct)} probes named twice; the last counts")
    return kept, notes


def _suffix(choice: FaceChoice) -> str:
    """What tells probes in one photo apart."""
    if choice.ordinal is not None:
        return f"#{choice.ordinal}"
    return f"#{choice.point[0]:g},{choice.point[1]:g}" if choice.point is not None else ""


def _face(answer: Identification, wanted: FaceChoice) -> int | None:
    """Which face of the answer is meant."""
    if wanted.ordinal is not None:
        return wanted.ordinal if 0 <= wanted.ordinal < len(answer.faces) else None
    if wanted.point is None:
        return answer.principal
    x, y = wanted.point
    inside = [
        n
        for n, face in enumerate(answer.faces)
        if face.box[0] <= x <= face.box[2] and face.box[1] <= y <= face.box[3]
    ]
    return inside[0] if inside else None


def _row(embeddings: Embeddings, face: int) -> F32:
    return embeddings.vectors[face : face + 1]


def _exact(
    templates: _Templates, lists: Lists, faces: F32, own: I64, searched: NDArray[np.bool_]
) -> Exact:
    """Exact search of the mated probes whose identity the engine does not have first."""
    mine: F64 = np.full(len(lists), -np.inf)
    other: F64 = np.full(len(lists), -np.inf)
    rows = np.flatnonzero(searched)
    for place in np.flatnonzero((own >= 0) & (lists.ranks[searched] != 1)).tolist():
        scores = templates.scores(faces[place : place + 1])[0]
        mine[rows[place]] = scores[own[place]]
        scores[own[place]] = -np.inf
        other[rows[place]] = scores.max()
    return Exact(mine, other)


def _comparisons(
    templates: _Templates, faces: F32, own: I64, people: I64, notes: list[str]
) -> Comparisons | None:
    if not len(faces):
        return None
    most = max(1, MOST_COMPARISONS // len(faces))
    if most < len(templates.names):
        kept = np.sort(np.random.default_rng(0).choice(len(templates.names), most, False))
        notes.append(f"one-to-one: {most:,} of {len(templates.names):,} templates, at random")
        column = np.full(len(templates.names) + 1, -1, np.int64)
        column[kept] = np.arange(most)
        templates, own = templates.take(kept), column[own]
    return Comparisons(templates.scores(faces), own, people)


def _twins(templates: _Templates, threshold: float, notes: list[str]) -> list[Twins]:
    if len(templates.names) > MOST_TEMPLATES:
        drawn = np.random.default_rng(0).choice(len(templates.names), MOST_TEMPLATES, False)
        notes.append(f"audit: {MOST_TEMPLATES:,} enrolled people compared with each other")
        templates = templates.take(np.sort(drawn))
    owners = np.repeat(
        np.array(templates.names, dtype=object),
        np.diff(np.append(templates.starts, len(templates.vectors))),
    )
    return twins_of(templates.vectors, owners.tolist(), threshold)


def _groups(key: str, probes: Iterable[Entry], labels: _Labels) -> list[str]:
    """The group of each probe: from its own metadata, else from the identity's."""

    def group(entry: Entry) -> str:
        known = labels.enrolled.get(labels(entry.person))
        stored: Mapping[str, JSONValue] = known.metadata if known else {}
        value = (entry.person.metadata or {}).get(key, stored.get(key))
        return "" if value is None else str(value)

    found = [group(entry) for entry in probes]
    if not any(found):
        raise UsageError(f"no probe has metadata '{key}'; give it in the manifest")
    return found


def _same(lists: Lists) -> list[str]:
    count = int((lists.best_scores >= SAME_PHOTO).sum())
    if not count:
        return []
    return [f"{count} probes score {SAME_PHOTO} or more: the same photo in gallery and probes?"]
