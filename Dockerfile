# The server of docs/serving.md. For NVIDIA GPUs: --build-arg TORCH_BACKEND=cu128, or another that
# `uv pip install --torch-backend` knows.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG TORCH_BACKEND=cpu

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN pip install --no-cache-dir uv
WORKDIR /app

# The packages first: they change less often than the project.
COPY pyproject.toml README.md LICENSE ./
RUN uv pip install --system --no-cache --torch-backend="${TORCH_BACKEND}" -r pyproject.toml --extra server
COPY . .
RUN uv pip install --system --no-cache --no-deps -e . && useradd --create-home nep

USER nep
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD \
    python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"
ENTRYPOINT ["python", "integrations/server/serve.py", "--host", "0.0.0.0"]
