"""FastStream's batch subscriber with our polling: the one place that reaches into the frame."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream._internal.broker.registrator import Registrator
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaMessage
from faststream.kafka.schemas import Topic
from faststream.kafka.subscriber.config import (
    KafkaSubscriberConfig,
    KafkaSubscriberSpecificationConfig,
)
from faststream.kafka.subscriber.specification import KafkaSubscriberSpecification
from faststream.kafka.subscriber.usecase import BatchSubscriber

from qwarden.delivery.consumer import Delivery

_log = logging.getLogger(__name__)

_POLL_TIMEOUT_MS = 1000
"""How long a poll waits for a first record. Only a bound: it returns when one comes. Beside it a
poll waits a second for room at most, so that the loop turns every other second."""
_RETRY_S = 1.0
"""How often a broker is asked again that goes away while a consumer starts: a service is ready
within seconds of when it is back."""


class _Subscriber(BatchSubscriber):
    """Polls through the delivery, which gives partitions their positions and stops lost ones.

    The stock one sleeps 5 s on such an error and tries for ever, and sleeps a whole timeout once
    more after an empty poll.
    """

    def __init__(self, delivery: Delivery, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._delivery = delivery

    async def start(self) -> None:
        """Waits for a broker that has gone away since it was asked for the topics, as in any other
        outage; aiokafka itself waits only once it knows the cluster. Raises `KafkaError` for what
        no waiting mends."""
        waits = False
        while True:
            try:
                await super().start()
                break
            except KafkaError as error:
                consumer, self.consumer = self.consumer, None
                if consumer is not None:
                    await consumer.stop()
                if not error.retriable:
                    raise
                if not waits:
                    _log.warning("waiting for Kafka to read %s: %r", self._delivery.topic, error)
                waits = True
                await asyncio.sleep(_RETRY_S)
        self._delivery.polls()

    async def get_msg(self, consumer: AIOKafkaConsumer) -> tuple[ConsumerRecord, ...]:
        records = await self._delivery.poll(
            consumer, timeout_ms=self.batch_timeout_ms, max_records=self.max_records
        )
        return tuple(records)


def subscribe(
    broker: KafkaBroker,
    delivery: Delivery,
    *,
    group_id: str,
    max_records: int,
    connection: dict[str, Any],
) -> BatchSubscriber:
    """Subscribes `delivery` to its topic. `connection`: arguments of `AIOKafkaConsumer`."""
    config: Any = broker.config  # FastStream's own factories cast it too
    topics = [Topic.validate(delivery.topic)]
    calls: CallsCollection[Any] = CallsCollection()
    subscriber = _Subscriber(
        delivery,
        KafkaSubscriberConfig(
            topics=topics,
            connection_args={
                "auto_offset_reset": "none",
                "enable_auto_commit": False,
                **connection,
            },
            group_id=group_id,
            listener=delivery,
            no_reply=True,
            _outer_config=config,
            _ack_policy=AckPolicy.MANUAL,
        ),
        KafkaSubscriberSpecification(
            _outer_config=config,
            calls=calls,
            specification_config=KafkaSubscriberSpecificationConfig(
                topics=topics, title_=None, description_=None, include_in_schema=True
            ),
        ),
        calls,
        batch_timeout_ms=_POLL_TIMEOUT_MS,
        max_records=max_records,
    )
    Registrator.subscriber(broker, subscriber)
    subscriber.add_call(parser_=_parsed, decoder_=_raw, codec_=None, dependencies_=())

    @subscriber
    async def take(records: Any) -> None:
        await delivery.take()

    return subscriber


async def _parsed(records: Any) -> KafkaMessage:
    """The poll as it is. The stock parser decodes every header, and fails on the first that is
    null or not UTF-8: outside our handler, so that its whole poll would never be finished."""
    return KafkaMessage(body=b"", raw_message=records, consumer=FAKE_CONSUMER)


async def _raw(message: Any) -> Any:
    return message.raw_message
