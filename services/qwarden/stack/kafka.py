"""Apache Kafka: one node, broker and controller in one process."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from qwarden.stack.child import Child, Progress, quiet
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home, locked
from qwarden.stack.java import COORDINATES, find_java, kafka_jars
from qwarden.stack.kafka_wire import broker_ready
from qwarden.stack.part import Part
from qwarden.stack.ports import free_ports

_CLUSTER = "cXdhcmRlbi1zdGFjay0wMQ"  # 16 bytes in base64, as Kafka wants it
_MAX_RECORD_BYTES = 2 * 1024 * 1024
"""Of a topic without a limit of its own: over the largest event with all that we add to it."""

_DUMP_S = 120.0
"""Seconds in which one writes its classes and ends: 4 of CPU; over 20 where others work too."""
FULL_SPEED = ("-XX:TieredStopAtLevel=4",)
"""Options of a broker that works for minutes, as one that is measured."""
_ENDED_IN_ORDER = 128 + signal.SIGTERM
"""Java's exit code; one that was killed may have written half of its classes."""


class Kafka(Part):
    """A broker that keeps what it has acknowledged in the home, killed or not.

    `listeners`: more of them by name, each with its security protocol. `settings`: more of the
    broker's own. `options`: more of its Java.
    """

    READY_TIMEOUT_S = 90.0  # 2 to 7 measured on two busy cores
    STOP_GRACE_S = 20.0  # 1 to 3 measured
    FIX = (
        "If it names a lock, another broker uses this folder: end that one first. If it lacks "
        "memory or disk, free some."
    )

    def __init__(
        self,
        home: Home,
        *,
        listeners: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        progress: Progress = quiet,
    ) -> None:
        super().__init__(progress)
        self._home = home
        self._listeners = listeners or {}
        self._ports = dict(zip(self._listeners, free_ports(len(self._listeners)), strict=True))
        self._more = settings or {}
        self._options = options
        self._port, self._controller_port = free_ports(2)
        self._classes: Path | None = None
        """Where the next start looks for this one's classes; None where they are there."""

    @property
    def bootstrap(self) -> str:
        """The broker's host:port."""
        return f"127.0.0.1:{self._port}"

    def address(self, listener: str) -> str:
        """host:port of one of `listeners`."""
        return f"127.0.0.1:{self._ports[listener]}"

    def stop(self, grace_s: float | None = None) -> None:
        """End the broker in order; the first one of the checkout leaves its loaded classes."""
        if grace_s is None and self._classes:
            grace_s = _DUMP_S
        super().stop(grace_s)
        if self._classes and self._child and self._child.exit_code == _ENDED_IN_ORDER:
            self._dump.replace(self._classes)

    @property
    def _dump(self) -> Path:
        return self._home.tmp / "kafka.jsa"

    def _prepare(self) -> Child:
        java = find_java()
        kind = f"{java.resolve()} {java.stat().st_mtime_ns} {COORDINATES}"
        name = f"kafka-{hashlib.sha256(kind.encode()).hexdigest()[:12]}.jsa"
        classes = self._home.cache("classes") / name
        self._classes = None if classes.exists() else classes
        jars = os.pathsep.join(str(jar) for jar in kafka_jars(self._home, self._progress))
        logs = self._home.data("kafka") / "records"
        settings = self._home.root / "kafka" / "server.properties"
        settings.write_text(self._settings(logs, self._more), encoding="utf-8")
        command = [
            str(java),
            "-Xmx512m",
            "-XX:+UseSerialGC",
            # A start takes 5.5 s of CPU, 3.5 without the second compiler, which pays after minutes
            # of work, and 1.7 where the classes of an earlier broker are mapped, not read anew.
            "-XX:TieredStopAtLevel=1",
            "-Xlog:cds*=off",  # it would name each class that cannot be kept
            "-XX:-UsePerfData",  # else the runtime writes under /tmp
            f"-XX:ErrorFile={self._home.logs}/kafka-crash-%p.log",
            f"-Djava.io.tmpdir={self._home.tmp}",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
            *self._options,
            "-cp",
            jars,
        ]
        if not (logs / "meta.properties").exists():
            shutil.rmtree(logs, ignore_errors=True)
            shutil.copytree(self._formatted(command), logs)
        archive = (
            f"-XX:ArchiveClassesAtExit={self._dump}"
            if self._classes
            else f"-XX:SharedArchiveFile={classes}"
        )
        return Child(self._home, "kafka", [*command, archive, "kafka.Kafka", str(settings)])

    def _answers(self) -> bool:
        return broker_ready(self._port)

    def _formatted(self, command: list[str]) -> Path:
        """Return a formatted empty folder, made once: to make one takes a Java of its own, 1.5 s.

        It names no port, because the quorum's voters are static.
        """
        kind = hashlib.sha256("+".join(COORDINATES).encode()).hexdigest()[:12]
        folder = self._home.cache("jars") / f"formatted-{kind}"
        with locked(folder.with_suffix(".lock")):
            if folder.exists():
                return folder
            new = folder.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            settings = self._home.tmp / f"format-{os.getpid()}.properties"
            settings.write_text(self._settings(new, {}), encoding="utf-8")
            tool = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(settings)]
            ran = subprocess.run([*command, *tool], capture_output=True, text=True, check=False)
            settings.unlink()
            if ran.returncode != 0:
                raise StackError(
                    f"Kafka's data folder could not be formatted with {command[0]}: "
                    f"{(ran.stdout + ran.stderr).strip()[-800:]} "
                    "Set JAVA_HOME to another Java of version 17 or later."
                )
            new.rename(folder)
        return folder

    def _settings(self, logs: Path, more: Mapping[str, str]) -> str:
        controller = f"127.0.0.1:{self._controller_port}"
        clients = {"PLAINTEXT": self.bootstrap} | {n: self.address(n) for n in self._listeners}
        listeners = ",".join(f"{name}://{at}" for name, at in clients.items())
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **self._listeners}
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{listeners},CONTROLLER://{controller}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in protocols.items()),
            "log.dirs": logs,
            "auto.create.topics.enable": "false",
            "message.max.bytes": _MAX_RECORD_BYTES,
            "replica.fetch.max.bytes": _MAX_RECORD_BYTES,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # As short as `kafka.session_timeout_ms` may be; Kafka's own is 6 s.
            "group.min.session.timeout.ms": 1_000,
            # A broker that was killed is let in again when its last session is over: with the
            # default, 9 s, a restart after a kill took 12 s.
            "broker.session.timeout.ms": 3_000,
            "broker.heartbeat.interval.ms": 500,
            # The default, 128 MiB, is taken at the start whatever there is to clean.
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
            **more,
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())
