# Triton with the model repository and the engine behind it.
#
#   docker build --file deploy/docker/triton.Dockerfile --tag REGISTRY/qwarden-triton:VERSION .
#
# The checkpoint is not in here: it comes from a volume or from the hub (QWARDEN_ENGINE__CHECKPOINT).
# Each RUN reads only its working directory and the variables above it, so that the steps run as
# plain sh in a clean folder too.

# 25.10 is Ubuntu 24.04 with Python 3.12, which the package takes, and CUDA 13, as torch's wheels.
# By digest where a build must be the same bit by bit:
#   --build-arg TRITON_IMAGE=nvcr.io/nvidia/tritonserver:25.10-py3@sha256:...
ARG TRITON_VERSION=25.10
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:${TRITON_VERSION}-py3

# Built with the Python that will run it: the stub of Triton's Python backend is the image's own.
FROM ${TRITON_IMAGE} AS packages
ARG PREFIX=/opt/qwarden
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY services/ services/
COPY triton_models/engine/ triton_models/engine/
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir dist .
# A folder on PYTHONPATH, not a virtual environment: the stub has the system's interpreter built in.
RUN set -- dist/*.whl \
    && python3 -m pip install --no-cache-dir --target "$PREFIX" --constraint constraints.txt "$1[engine]"
RUN PYTHONPATH="$PREFIX" python3 -c "import torch, qwarden_engine"

FROM ${TRITON_IMAGE}
# The hub's folder is there so that a new named volume over it takes its owner.
RUN groupadd --gid 10001 qwarden \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin qwarden \
    && install --directory --owner=10001 --group=10001 /var/cache/hub
COPY --from=packages /opt/qwarden/ /opt/qwarden/
COPY triton_models/repository/ /models/
# The root is read-only in a pod; /tmp is what can be written.
ENV PYTHONPATH=/opt/qwarden \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000 8001 8002
# The supervisor is process 1. It starts Triton again when Triton's Python process is dead, which
# Triton itself does not notice, and lives on meanwhile: with it would go the list of what was
# running, by which the engine finds the row that ends it. It stands in place of NVIDIA's
# entrypoint, which prints a banner and, for drivers older than CUDA 13's, links a newer driver
# library into the root: a pod's root is read-only, so such nodes need the container toolkit's own
# forward compatibility or a newer driver.
ENTRYPOINT ["python3", "-m", "qwarden_engine.supervisor", "--restart", "--", "tritonserver", "--model-repository=/models", "--disable-auto-complete-config"]
