# The service and its shipped student: no torch, no compiler, no root.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /venv
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY distilled_nlu ./distilled_nlu
COPY service ./service
COPY training ./training
COPY export ./export
COPY loadtest ./loadtest
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home nlu
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NLU_HOST=0.0.0.0 \
    NLU_PORT=8000
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=2s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['NLU_PORT'] + '/readyz', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
