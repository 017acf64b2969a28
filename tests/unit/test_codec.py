"""What we pack and unpack is what aiokafka packs and unpacks, and damage is an error in both."""

import struct
from collections.abc import Callable
from io import BytesIO

import pytest
from aiokafka.protocol.api import RequestStruct
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from aiokafka.protocol.struct import Struct
from hypothesis import given
from hypothesis import strategies as st

from streams.transport import codec

SHORT = st.integers(-(2**15), 2**15 - 1)
INT = st.integers(-(2**31), 2**31 - 1)
LONG = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=8)
RECORDS = st.binary(max_size=40)


def of_topics(*partition: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(st.tuples(TEXT, st.lists(st.tuples(*partition), max_size=3)), max_size=3)


fetch_requests = st.builds(
    FetchRequest_v11,
    *(INT, INT, INT, INT, st.integers(0, 1), INT, INT),
    of_topics(INT, INT, LONG, LONG, INT),
    st.just([]),
    TEXT,
)
produce_requests = st.builds(
    ProduceRequest_v7, st.none() | TEXT, SHORT, INT, of_topics(INT, RECORDS)
)
aborted = st.none() | st.lists(st.tuples(LONG, LONG), max_size=3)
fetch_answers = st.builds(
    FetchResponse_v11,
    *(INT, SHORT, INT),
    of_topics(INT, SHORT, LONG, LONG, LONG, aborted, INT, st.none() | RECORDS),
)
produce_answers = st.builds(ProduceResponse_v7, of_topics(INT, SHORT, LONG, LONG, LONG), INT)


@given(fetch_requests, st.integers(0, 2**31 - 1), TEXT)
def test_a_fetch_request_is_the_same_bytes(request, correlation, client) -> None:
    assert codec.encode_fetch(request) == Struct.encode(request)
    own = RequestStruct.build_request_header(request, correlation, client)
    assert codec.request_header(request, correlation, client).encode() == own.encode()


@given(produce_requests)
def test_a_produce_request_is_the_same_bytes(request) -> None:
    assert codec.encode_produce(request) == Struct.encode(request)


@given(fetch_answers, st.integers(0, 2**31 - 1))
def test_a_fetch_answer_is_the_same_values(answer, correlation) -> None:
    content = Struct.encode(answer)
    assert codec.decode_fetch(FetchResponse_v11, content) == answer
    whole = BytesIO(struct.pack(">i", correlation) + content)
    assert codec.response_header(None, whole).correlation_id == correlation
    assert codec.decode_fetch(FetchResponse_v11, whole) == answer


@given(produce_answers)
def test_a_produce_answer_is_the_same_values(answer) -> None:
    assert codec.decode_produce(ProduceResponse_v7, Struct.encode(answer)) == answer


@pytest.mark.parametrize(
    ("decode", "answer"),
    [
        (
            codec.decode_fetch,
            FetchResponse_v11(
                *(0, 0, 0),
                [
                    (
                        "t",
                        [(0, 0, 9, 9, 0, [(1, 2), (3, 4)], -1, b"ab"), (1, *[0] * 4, None, 0, b"")],
                    )
                ],
            ),
        ),
        (codec.decode_produce, ProduceResponse_v7([("t", [(0, 0, 5, -1, 0)] * 2)], 0)),
    ],
)
def test_an_answer_that_ends_anywhere_is_refused(decode: Callable, answer: Struct) -> None:
    content = Struct.encode(answer)
    for size in range(len(content)):
        with pytest.raises((struct.error, ValueError)):
            decode(type(answer), content[:size])


def test_installed_twice_it_is_what_the_connection_calls() -> None:
    codec.install()
    codec.install()
    request = FetchRequest_v11(-1, 5, 1, 2**20, 1, 0, -1, [("t", [(0, 1, 7, -1, 2**20)])], [], "")
    assert request.encode() == Struct.encode(request)
    assert isinstance(FetchResponse_v11.decode(struct.pack(">ihii", 1, 0, 3, 0)), FetchResponse_v11)
    assert request.build_request_header(4, "me").encode()[:8] == struct.pack(">hhi", 1, 11, 4)
