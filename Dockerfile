# The service (docs/deploy.md). Weights are baked in, checked against the catalogue's sha256; with
# --build-arg WEIGHTS=volume the image has none, and they are fetched into the volume at /weights at the first start.
FROM python:3.13-slim AS build
ARG WEIGHTS=baked
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN python -m venv /opt/univfd \
 && /opt/univfd/bin/pip install --no-cache-dir ".[server,provenance,heic]"
ENV UNIVFD_HOME=/weights
RUN mkdir /weights \
 && if [ "$WEIGHTS" = baked ]; then \
      /opt/univfd/bin/univfd models fetch clip-vit-b-16 && /opt/univfd/bin/univfd models verify clip-vit-b-16; \
    fi

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin univfd
COPY --from=build /opt/univfd /opt/univfd
COPY --from=build --chown=univfd:univfd /weights /weights
ENV PATH=/opt/univfd/bin:$PATH UNIVFD_HOME=/weights PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["univfd"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--key-file", "/run/secrets/univfd_keys"]
