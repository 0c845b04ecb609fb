# A worker for one release of TensorRT-LLM, in NVIDIA's Triton image with this release. Targets set `toolchain: host`.
# docker-bake.json has the image and the Python of each release. REGISTRY is the host of NVIDIA's registry, or of your
# mirror of it:
#   REGISTRY=… docker buildx bake -f infra/images/docker-bake.json worker-tensorrt-llm-1-2-1
ARG REGISTRY
ARG IMAGE
# IMAGE has a tag.
# hadolint ignore=DL3006
FROM ${REGISTRY}/${IMAGE}
ARG PYTHON=python3
ARG PYTHON_PACKAGES=python3-venv
# Enginery has its own environment, so the packages of the release in the image do not change. The versions of the
# system packages come from the image's Ubuntu release.
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
