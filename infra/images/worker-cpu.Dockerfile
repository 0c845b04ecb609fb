# A worker without a GPU. It runs flows, downloads, conversions on the CPU, packaging, publishing, rollouts, and builds
# of targets with `gpu: cpu`. The image also has Prefect's server. Build it from the top of the checkout:
#   docker buildx bake -f infra/images/docker-bake.json worker-cpu
# To use your own package index, add: --set '*.secrets=id=pip,src=/etc/pip.conf'
FROM python:3.11.13-slim-bookworm AS install
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY enginery enginery
COPY flows flows
COPY tasks tasks
COPY infra infra
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python -m venv /opt/enginery \
    && /opt/enginery/bin/pip install --no-cache-dir --constraint constraints.txt '.[fleet]'

FROM python:3.11.13-slim-bookworm
RUN useradd --uid 10001 --create-home --home-dir /var/lib/enginery enginery
COPY --from=install /opt/enginery /opt/enginery
WORKDIR /app
COPY prefect.yaml ./
COPY flows flows
COPY infra infra
COPY examples examples
ENV PATH=/opt/enginery/bin:$PATH \
    ENGINERY_HOME=/var/lib/enginery/home \
    PYTHONUNBUFFERED=1
USER 10001
VOLUME /var/lib/enginery
CMD ["prefect", "worker", "start", "--type", "process", "--pool", "enginery-cpu"]
