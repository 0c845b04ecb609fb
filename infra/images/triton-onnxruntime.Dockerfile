# Triton Inference Server with the packages that models of the backend `onnxruntime` need. REGISTRY is the host of
# NVIDIA's registry, or of your mirror of it.
ARG REGISTRY
FROM ${REGISTRY}/nvidia/tritonserver:24.12-py3
COPY infra/toolchains/onnxruntime-0.18.txt /tmp/pins.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip install --no-cache-dir --constraint /tmp/pins.txt numpy onnxruntime-genai tokenizers \
    && useradd --uid 10001 --create-home triton
USER 10001
ENTRYPOINT ["/opt/tritonserver/bin/tritonserver"]
CMD ["--model-control-mode=explicit"]
