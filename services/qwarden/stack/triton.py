"""NVIDIA Triton from the `nvidia-pytriton` wheel, under the engine's supervisor."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import signal
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from qwarden.stack.child import Child, Progress, quiet
from qwarden.stack.errors import StackError
from qwarden.stack.home import Home, checkout, locked
from qwarden.stack.part import Part
from qwarden.stack.ports import free_ports
from qwarden.stack.probe import answers_200
from qwarden.stack.process import descendants

MODEL = "qwen3guard_gen"
_SHARED_MEMORY = Path("/dev/shm")
_OLDEST_GLIBC = (2, 35)


def available() -> str | None:
    """Return why Triton cannot run here, in a sentence, or None where it can."""
    reason = _missing()
    if reason is None:
        return None
    return (
        f"{reason} Leave it out: the engine runs in process then (`qwarden up --without triton`)."
    )


def _missing() -> str | None:
    python = _python_version()
    libc, version = platform.libc_ver()
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return "Triton's wheel is for Linux on x86-64."
    if libc != "glibc" or tuple(map(int, version.split(".")[:2])) < _OLDEST_GLIBC:
        found = f"{libc} {version}" if libc else "another C library"
        return f"Triton needs glibc 2.35 or later and this system has {found}."
    if not os.access(_SHARED_MEMORY, os.W_OK):
        return "Triton's Python models need a writable /dev/shm, which this system lacks."
    if importlib.util.find_spec("pytriton") is None:
        return "Triton is not installed: `pip install nvidia-pytriton==0.7.0`."
    if not (_stubs() / python).is_dir():
        return f"Triton's wheel has no part for Python {python}: use 3.11 or 3.12."
    if not _libpython_folders():
        return "Triton needs a Python that was built with a shared libpython, which this one lacks."
    return None


class Triton(Part):
    """Triton with the guards that are named, under its supervisor.

    `settings`: the engines', above all QWARDEN_ENGINE__CHECKPOINT for Qwen3Guard-Gen and
    QWARDEN_STREAM__CHECKPOINT for Qwen3Guard-Stream. `repository`: the checkout's by default.
    `options`: more of the server's own.
    """

    READY_TIMEOUT_S = 1_800.0  # 3 with a small guard, minutes where a large one is downloaded first
    STOP_GRACE_S = 20.0  # over the 8 that the supervisor gives Triton before it kills it
    FIX = (
        "Check the checkpoints that `--guard`, QWARDEN_ENGINE__CHECKPOINT and "
        "QWARDEN_STREAM__CHECKPOINT name."
    )
    STARTING = "loading the guard"

    def __init__(
        self,
        home: Home,
        settings: Mapping[str, str],
        *,
        repository: Path | None = None,
        options: Sequence[str] = (),
        progress: Progress = quiet,
    ) -> None:
        super().__init__(progress)
        self._home = home
        self._settings = settings
        self._repository = repository or checkout() / "triton_models" / "repository"
        self._options = options
        self._ports = free_ports(3)

    @property
    def http(self) -> str:
        """host:port of its HTTP API."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def grpc(self) -> str:
        """host:port of its gRPC API, what QWARDEN_TRITON__URL wants."""
        return f"127.0.0.1:{self._ports[1]}"

    @property
    def metrics(self) -> str:
        """host:port of its /metrics."""
        return f"127.0.0.1:{self._ports[2]}"

    def _prepare(self) -> Child:
        reason = available()
        if reason is not None:
            raise StackError(reason)
        packages = Path(sysconfig.get_path("purelib"))
        server = _wheel() / "tritonserver" / "bin" / "tritonserver"
        http, grpc, metrics = self._ports
        command = [
            *(sys.executable, "-m", "qwarden_engine.supervisor", "--restart", "--die-with-parent"),
            *("--", str(server)),
            f"--model-repository={self._repository}",
            f"--backend-directory={self._backends()}",
            *("--http-address=127.0.0.1", f"--http-port={http}"),
            *("--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
            *("--metrics-address=127.0.0.1", f"--metrics-port={metrics}"),
            "--allow-gpu-metrics=false",
            # The configuration is complete; without this Triton starts the stub twice.
            "--disable-auto-complete-config",
            *self._options,
        ]
        libraries = [packages / "nvidia_pytriton.libs", *_libpython_folders()]
        sources = [checkout() / "services", checkout() / "triton_models" / "engine", packages]
        env = {
            **self._settings,
            "LD_LIBRARY_PATH": _joined(libraries, os.environ.get("LD_LIBRARY_PATH")),
            "PYTHONPATH": _joined(sources, os.environ.get("PYTHONPATH")),
            # The stub embeds Python and finds its environment through the first python3 here.
            "PATH": _joined([Path(sys.executable).parent], os.environ.get("PATH")),
        }
        # When this process is killed the supervisor gets SIGTERM, not SIGKILL, which would leave
        # Triton's shared memory behind.
        return Child(self._home, "triton", command, env=env, on_orphaned=signal.SIGTERM)

    def _answers(self) -> bool:
        # The supervisor would try for ever, and a guard that does not load now will not later.
        said = self.child.tail(400)
        if '"event": "restart"' in said:
            reasons = re.findall(r"failed to load '[^']*' version \d+: (?:Internal: )?(.*)", said)
            if reasons:
                reason = reasons[-1].split(r"\n\nAt:")[0].strip(' ".')
                message = f"Triton did not load the guard: {reason}. {self.FIX}"
                raise StackError(message, log=self.child.log)
            raise self.child.failure("Triton ended while it loaded the guard", self.FIX)
        return answers_200(self._ports[0], "/v2/health/ready")

    def _crash(self, child: Child) -> None:
        server = descendants(child.pid)
        # Told to stop first, so that the supervisor sees no reason to start the server again, and
        # frees what a killed one leaves in /dev/shm.
        child.signal(signal.SIGTERM)
        for process in server:
            process.signal(signal.SIGKILL)

    def _backends(self) -> Path:
        """Return a backend folder with the stub of this Python: the wheel's has no stub in it."""
        folder = self._home.cache("triton") / f"backends-{_python_version()}"
        with locked(folder.with_suffix(".lock")):
            if not folder.exists():
                new = folder.with_suffix(".new")
                shutil.rmtree(new, ignore_errors=True)
                shutil.copytree(_wheel() / "tritonserver" / "backends", new)
                stub = new / "python" / "triton_python_backend_stub"
                shutil.copyfile(_stubs() / _python_version() / stub.name, stub)
                stub.chmod(0o755)
                new.rename(folder)
        return folder


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _wheel() -> Path:
    found = importlib.util.find_spec("pytriton")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def _stubs() -> Path:
    return _wheel() / "tritonserver" / "python_backend_stubs"


def _libpython_folders() -> list[Path]:
    """Where this Python's shared library is; some builds name a LIBDIR of their build machine."""
    name = sysconfig.get_config_var("INSTSONAME")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or not name:
        return []
    libdir = Path(sysconfig.get_config_var("LIBDIR"))
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = [libdir, libdir / multiarch, Path(sys.base_prefix, "lib")]
    return [folder for folder in folders if (folder / name).exists()][:1]


def _joined(folders: list[Path], more: str | None) -> str:
    return os.pathsep.join([*map(str, folders), *([more] if more else [])])
