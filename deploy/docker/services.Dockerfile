# The image of every service: one Python, one package, one command each. No torch, no compiler.
#
#   docker build --file deploy/docker/services.Dockerfile --tag REGISTRY/qwarden:VERSION .
#
# Each RUN reads only its working directory and the variables above it, so that the steps run as
# plain sh in a clean folder too.

# By digest where a build must be the same bit by bit:
#   --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY services/ services/
COPY triton_models/engine/ triton_models/engine/
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir dist .

FROM ${PYTHON_IMAGE} AS packages
ARG PREFIX=/opt/qwarden
WORKDIR /src
COPY constraints.txt ./
COPY --from=wheel /src/dist/ dist/
RUN python3 -m venv "$PREFIX" \
    && "$PREFIX/bin/python" -m pip install --no-cache-dir --constraint constraints.txt dist/*.whl \
    && "$PREFIX/bin/python" -m pip check
# What the services import must never pull in the model's side: gigabytes, and a slower start.
RUN "$PREFIX/bin/python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 qwarden \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin qwarden
COPY --from=packages /opt/qwarden/ /opt/qwarden/
# The root is read-only in a pod; /tmp is what can be written.
ENV PATH=/opt/qwarden/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["qwarden"]
