# One image for every process: the receiver, the poller, the migration, the console, and the made-up desk.
# docs/containers.md says how to build, run and upgrade it.

# Another base works as well, if it has a Python 3.11 or later called python, and a shell.
ARG PYTHON=python:3.13-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /app
COPY requirements.txt ./
# Wheels only, each by its hash: nothing is compiled.
RUN python -m venv --without-pip .venv \
    && python -m pip --python .venv/bin/python install --no-cache-dir --disable-pip-version-check --no-input \
        --root-user-action=ignore --require-hashes --only-binary :all: --requirement requirements.txt
# What is copied is listed in .dockerignore.
COPY . ./
# The root is read-only when it runs, so Python compiles now.
RUN python -m compileall -q --invalidation-mode unchecked-hash freescout_audit settings db receiver poller ops simulator

FROM ${PYTHON}
LABEL org.opencontainers.image.title="freescout-audit" \
      org.opencontainers.image.description="Always knows the status of every FreeScout ticket, and never vouches for what it does not know." \
      org.opencontainers.image.version="0.1.0"
RUN groupadd --gid 10001 audit \
    && useradd --uid 10001 --gid audit --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin audit
COPY --from=build /app /app
WORKDIR /app
# `container` tells the console where it runs, for the words of its next steps.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    container=oci
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# For the receiver, which is what runs unless another command is given. http.client asks no proxy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import http.client, os, sys; asked = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8080), timeout=4); asked.request('GET', '/healthz'); sys.exit(asked.getresponse().status != 200)"]
CMD ["python", "-m", "receiver"]
