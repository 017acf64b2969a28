"""Bytewax: a flow whose map gets the batches that its Kafka source reads.

It commits no offsets; who needs to start again where it ended turns its recovery store on.
"""

from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main
from confluent_kafka import OFFSET_BEGINNING

from streams.bench.rivals.request import read_request
from streams.bench.rivals.scorer import BatchScorer

Message = KafkaSourceMessage[bytes | None, bytes | None]


def main() -> None:
    """Work until stopped."""
    request = read_request()
    score = BatchScorer(request)

    def answers(messages: list[Message]) -> list[KafkaSinkMessage[bytes | None, bytes]]:
        places = [(m.partition or 0, m.offset or 0) for m in messages]
        scored = score([m.value or b"" for m in messages], places)
        return [KafkaSinkMessage(m.key, answer) for m, answer in zip(messages, scored, strict=True)]

    flow = Dataflow("score")
    source = KafkaSource(
        [request.kafka],
        [request.source],
        starting_offset=OFFSET_BEGINNING,
        add_config={"fetch.queue.backoff.ms": "5", "fetch.wait.max.ms": str(request.wait_ms)},
        batch_size=request.rows_max,
    )
    sink = KafkaSink(
        [request.kafka],
        request.sink,
        add_config={
            "linger.ms": "1" if request.wait_ms < 50 else "5",
            "enable.idempotence": "true",
            "queue.buffering.max.messages": "1000000",
        },
    )
    events = op.input("events", flow, source)
    op.output("predictions", op.flat_map_batch("score", events, answers), sink)
    cli_main(flow)


if __name__ == "__main__":
    main()
