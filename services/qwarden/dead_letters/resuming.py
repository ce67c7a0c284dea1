"""What lets a stopped fleet go on: withdrawn halts, and losses that a person has accepted."""

from __future__ import annotations

from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition

from qwarden.contracts.control import Halt, Key, LossAccepted
from qwarden.control.kafka import commanding
from qwarden.delivery.positions import Lost, start_of
from qwarden.kafka import admin, assigned, client_arguments, committed_in, stop
from qwarden.settings import Kafka


async def resume(kafka: Kafka, *, dry_run: bool) -> dict[Key, Halt]:
    """Withdraws the halts in force, and returns them. With `dry_run` it only returns them.

    Raises `KafkaError` and `ControlUnusable`.
    """
    async with commanding(kafka) as control:
        halts = dict(control.halts())
        if not dry_run:
            for key in halts:
                await control.withdraw(key)
    return halts


class NothingLost(Exception):
    """There is no loss to accept; the message says what there is."""


async def accept_loss(
    kafka: Kafka,
    where: TopicPartition,
    group: str,
    *,
    lost_from: int | None,
    at: datetime,
    by: str,
    dry_run: bool,
) -> LossAccepted:
    """Records what a group has lost of a partition as lost, and returns it. `lost_from`: the offset
    at which its moderator says that it is stopped, which may stand behind the committed one; None
    for that.

    With `dry_run` it only returns it. Raises `NothingLost`, `ValueError` for a partition that is
    not there, `KafkaError`, and `ControlUnusable`.
    """
    begin, end = await _range_of(kafka, where)
    if lost_from is None:
        lost_from = await _committed(kafka, where, group)
    start = start_of(lost_from, begin, end)
    if not isinstance(start, Lost):
        raise NothingLost(
            f"nothing of {where.topic}/{where.partition} is lost: the group {group} goes on at "
            f"{start.offset}, and the topic holds {begin} to {end}"
        )
    loss = LossAccepted(
        topic=where.topic,
        partition=where.partition,
        group=group,
        committed=start.first,
        resume_at=begin,  # also where the topic was made again: what stands there was never read
        at=at,
        by=by,
    )
    if not dry_run:
        async with commanding(kafka) as control:
            await control.write(loss)
    return loss


async def _range_of(kafka: Kafka, where: TopicPartition) -> tuple[int, int]:
    consumer = AIOKafkaConsumer(**client_arguments(kafka), group_id=None)
    try:
        consumer.assign(await assigned(kafka, where.topic, [where.partition]))
        await consumer.start()
        begin = (await consumer.beginning_offsets([where]))[where]
        end = (await consumer.end_offsets([where]))[where]
    finally:
        await stop(consumer)
    return begin, end


async def _committed(kafka: Kafka, where: TopicPartition, group: str) -> int | None:
    async with admin(kafka) as client:
        return (await committed_in(client, group, [where])).get(where)
