# docker build -t comfy-bridge .
# docker run --rm -e BRIDGE_MQTT__URL=mqtt://broker:1883 -e BRIDGE_COMFYUI__URLS=http://comfyui:8188 comfy-bridge
# Settings: environment (BRIDGE_<SECTION>__<KEY>) or a config.toml in /data.

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY bridge ./bridge
COPY workflows ./workflows
COPY flows/chains ./flows/chains
RUN pip wheel --no-cache-dir --wheel-dir /wheels --constraint constraints.txt '.[speed]'

FROM python:3.12-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'comfy-bridge[speed]' \
    && useradd --uid 10001 --no-create-home --home-dir /data bridge \
    && install -d -o bridge -g bridge /data
COPY workflows /workflows
COPY flows/chains /chains

ENV BRIDGE_WORKFLOWS__DIR=/workflows \
    BRIDGE_WORKFLOWS__CHAINS=/chains \
    BRIDGE_STORE__URL=sqlite:////data/comfy-bridge.db \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
VOLUME /data

# Healthy means: the settings are right, and broker and ComfyUI answer.
HEALTHCHECK --interval=60s --timeout=30s --start-period=30s CMD ["comfy-bridge", "check"]
ENTRYPOINT ["comfy-bridge"]
CMD ["run"]
