"""What Milvus says, in our words; which replica lacks what. Without a server."""

from __future__ import annotations

import pytest
from pymilvus import MilvusException

from facesearch.backends.backend import MovedError
from facesearch.backends.milvus_link import Link, lacking
from facesearch.errors import BackendError, BackendUnreachableError, IncompleteError

CANCELED = "attempt #7: rpc error: code = Canceled desc = grpc: the client connection is closing"
REFUSED = (
    "empty grpc client: failed to connect 127.0.0.1:21133, reason: connection error: desc = "
    '"transport: error while dialing: dial tcp 127.0.0.1:21133: connect: connection refused"'
)
DELEGATOR = (
    "failed to query: failed to search/query delegator 9 for channel c: stack trace: /a.go:5"
)


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (101, "collection not loaded", BackendUnreachableError),
        (503, "no available replica", BackendUnreachableError),
        (65535, CANCELED, BackendUnreachableError),  # as a cluster says whose node was killed
        (65535, REFUSED, BackendUnreachableError),
        (65535, DELEGATOR, BackendUnreachableError),
        (65535, "Broker: Message size too large", BackendError),
        (100, "can't find collection", MovedError),
        (100, "collection not loaded: collection not found", BackendUnreachableError),
    ],
)
def test_what_passes_and_what_does_not(code: int, message: str, expected: type[Exception]) -> None:
    link, tries = Link("http://there:19530", "", 0.4), 0

    def fails() -> None:
        nonlocal tries
        tries += 1
        raise MilvusException(code, message)

    with pytest.raises(BackendError) as caught:
        link.patiently(fails)
    assert type(caught.value) is expected
    assert "\n" not in str(caught.value)
    assert "stack trace" not in str(caught.value)
    assert (tries > 1) == (expected is BackendUnreachableError)


def test_what_comes_back_in_time_is_no_error() -> None:
    link, left = Link("http://there:19530", "", 30.0), [IncompleteError("first"), None]

    def recovers() -> str:
        if (error := left.pop(0)) is not None:
            raise error
        return "found"

    assert link.patiently(recovers) == "found"


def test_a_replica_that_lacks_a_segment() -> None:
    one, two, three = frozenset({1}), frozenset({2}), frozenset({3})
    assert lacking([one | two, one | two], two) == 0
    assert lacking([one | two, one], two) == 1
    assert lacking([one, one], frozenset()) == 2
    assert lacking([one, two], one | two) == 0  # one replica on two nodes
    assert lacking([one | two, one | three, one], two | three) == 1
    assert lacking([], one) == 0
