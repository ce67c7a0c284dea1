"""Work whose known failures end the command with a sentence and an exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from qwarden.cli.terminal import MISSING, WRONG_USE, end

T = TypeVar("T")


def ask(work: Callable[[], Awaitable[T]]) -> T:
    """Runs a coroutine; what a dependency fails with becomes a sentence and an exit code."""
    from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

    from qwarden.control.port import ControlUnusable
    from qwarden.inference.port import GuardFailed, GuardUnavailable

    async def run() -> T:
        return await work()

    try:
        return asyncio.run(run())
    except UnknownTopicOrPartitionError as error:
        end(MISSING, f"{error}; `qwarden topics create` makes the topics")
    except KafkaError as error:
        end(
            MISSING,
            f"Kafka does not answer as it should: {error}. Is QWARDEN_KAFKA__BOOTSTRAP_SERVERS "
            "right, or the local stack up (`qwarden up`)?",
        )
    except ControlUnusable as error:
        end(MISSING, str(error))
    except GuardUnavailable as error:
        end(MISSING, f"{error}; is the stack up (`qwarden up`), or is --direct meant?")
    except GuardFailed as error:
        end(MISSING, str(error))
    except FileNotFoundError as error:
        end(WRONG_USE, str(error))
    except ImportError as error:
        end(MISSING, f"{error.name} is not installed; the engine needs the extra: qwarden[engine]")
    except ValueError as error:
        end(WRONG_USE, str(error))


def right(read: Callable[[], T]) -> T:
    """What a person has typed, read; a mistake becomes a sentence and an exit code."""
    try:
        return read()
    except ValueError as error:
        end(WRONG_USE, str(error))
