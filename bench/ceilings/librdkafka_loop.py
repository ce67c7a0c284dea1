"""The same loop on librdkafka: how much faster a client that is not Python is.

The ceiling's share of it is recorded, so that a ceiling which has become slower is seen. It polls
up to 2,000 records, produces for each the verdict's exact bytes and headers on an idempotent
producer with acks=all and a linger of 5 ms, keeps at most 4 polls unacknowledged, and commits
those positions whose verdicts are all acknowledged.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

Ready = Mapping[tuple[int, int], tuple[bytes, Sequence[tuple[str, bytes]]]]
"""(partition, offset) of an event to its verdict's value and headers."""

_POLLS = 4


class _Poll:
    """One poll: how many of its verdicts have no acknowledgement, and where it ends."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.open = len(messages)
        self.size = len(messages)
        self.ends = {_partition(each): _offset(each) + 1 for each in messages}

    def acknowledged(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise RuntimeError(f"a verdict was not acknowledged: {error}")
        self.open -= 1


def run(bootstrap: str, source: str, target: str, group: str, ready: Ready) -> float:
    """Writes a verdict for every record of `source`; returns events a second, from the first
    poll that gave records to the last commit."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,
            "max.partition.fetch.bytes": 1_100_000,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "batch.size": 65536,
        }
    )
    consumer.subscribe([source])
    began = 0.0
    done = 0
    polls: deque[_Poll] = deque()
    try:
        while done < len(ready):
            messages = (
                consumer.consume(2000, 0.005 if polls else 0.02) if len(polls) < _POLLS else []
            )
            if messages:
                began = began or time.perf_counter()
                poll = _Poll(messages)
                polls.append(poll)
                for each in messages:
                    value, headers = ready[_partition(each), _offset(each)]
                    producer.produce(
                        target,
                        value=value,
                        key=each.key(),
                        headers=list(headers),
                        on_delivery=poll.acknowledged,
                    )
                producer.poll(0)
            elif polls:
                producer.poll(0.001)
            ends: dict[int, int] = {}
            while polls and not polls[0].open:
                first = polls.popleft()
                ends |= first.ends
                done += first.size
            if ends:
                offsets = [TopicPartition(source, *each) for each in ends.items()]
                consumer.commit(offsets=offsets, asynchronous=False)
        return done / (time.perf_counter() - began)
    finally:
        consumer.close()


def _partition(message: Message) -> int:
    partition = message.partition()
    if message.error() is not None or partition is None:
        raise RuntimeError(f"a poll gave no record: {message.error()}")
    return partition


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset
