# A worker for one release of TensorRT-LLM, inside NVIDIA's Triton image that has it: targets say `toolchain: host`.
# Which image and which Python go with a release is in docker-bake.json; REGISTRY is the host of NVIDIA's registry, or of
# your mirror of it:
#   REGISTRY=… docker buildx bake -f infra/images/docker-bake.json worker-tensorrt-llm-1-2-1
ARG REGISTRY
ARG IMAGE
# IMAGE names the tag.
# hadolint ignore=DL3006
FROM ${REGISTRY}/${IMAGE}
ARG PYTHON=python3
ARG PYTHON_PACKAGES=python3-venv
# Enginery has an environment of its own: the image's packages are the release's, and stay as they are. The image's own
# Ubuntu release says which version of Python's packages there is.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ${PYTHON_PACKAGES} \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE prefect.yaml ./
COPY enginery enginery
COPY flows flows
COPY tasks tasks
COPY infra infra
COPY examples examples
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    ${PYTHON} -m venv /opt/enginery \
    && /opt/enginery/bin/pip install --no-cache-dir --constraint constraints.txt '.[fleet]' \
    && useradd --uid 10001 --create-home --home-dir /var/lib/enginery enginery
ENV ENGINERY_HOME=/var/lib/enginery/home \
    PYTHONUNBUFFERED=1
USER 10001
VOLUME /var/lib/enginery
CMD ["/opt/enginery/bin/prefect", "worker", "start", "--type", "process", "--pool", "enginery-gpu"]
