# One image for each service:   docker build --build-arg SERVICE=accounts -t callboard-accounts .
# SERVICE is the name of a folder in services/, or "gateway", or "ops": the `callboard` command, with all of them.
ARG PYTHON_IMAGE=python:3.11-slim


# What is installed from outside, pinned and with hashes: the same layer in every image.
FROM ${PYTHON_IMAGE} AS dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
COPY requirements-runtime.lock /build/
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check --no-compile \
      --only-binary :all: --require-hashes -r /build/requirements-runtime.lock \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib


# Callboard's own: `common` and the one service. The same source gives the same files, so that the image of a
# service stays as it is when another changes.
FROM ${PYTHON_IMAGE} AS own
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
COPY requirements-build.lock /build/
RUN python -m venv /build/venv \
 && /build/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      --only-binary :all: --require-hashes -r /build/requirements-build.lock
COPY libs /build/libs
COPY gateway /build/gateway
COPY services /build/services
ARG SERVICE
WORKDIR /build
RUN set -eu; \
    case "${SERVICE:?is missing: --build-arg SERVICE=accounts}" in \
      ops) packages="./libs/cli ./gateway $(echo ./services/*)" ;; \
      gateway) packages=./gateway ;; \
      *) packages="./services/$SERVICE" ;; \
    esac; \
    venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \
      --wheel-dir wheels ./libs/common $packages; \
    venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
      --target /opt/callboard wheels/*.whl; \
    venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/callboard; \
    cd /opt/callboard; mkdir -p bin; \
    if [ "$SERVICE" = ops ]; then \
      sed -i '1s|.*|#!/opt/venv/bin/python -P|' bin/callboard; ln -s callboard bin/start; \
    else \
      printf '#!/opt/venv/bin/python -P\nimport runpy\n\nrunpy.run_module("%s.main", run_name="__main__", alter_sys=True)\n' \
        "$SERVICE" > bin/start; chmod 755 bin/start; \
    fi


FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 callboard \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin callboard \
 && mkdir -p /etc/callboard /run/secrets/callboard
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=own /opt/callboard /opt/callboard
ENV PATH=/opt/callboard/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/callboard \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CALLBOARD_CONFIG=/etc/callboard/callboard.toml \
    CALLBOARD_SECRETS_DIR=/run/secrets/callboard \
    CALLBOARD_HOST=0.0.0.0 \
    CALLBOARD_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Each look costs processor time: no more often than need be, and with no more of Python than it takes.
HEALTHCHECK --interval=10s --timeout=4s --start-period=60s --retries=3 \
  CMD ["python", "-ISc", "import http.client as h, os; c = h.HTTPConnection(f'127.0.0.1:{os.environ[\"CALLBOARD_PORT\"]}', timeout=3); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["start"]

ARG SERVICE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="callboard-${SERVICE}" \
      org.opencontainers.image.description="Callboard, the staff backend of a Roblox group: ${SERVICE}" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
