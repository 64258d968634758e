# The server in an image: `docker build -t ackline .`, then
#
#   docker run --read-only -v ackline:/data -p 7171:7171 ackline --listen=0.0.0.0:7171 …
#
# It runs as a user without rights and writes to /data only. Health and metrics are on
# port 9171 inside the container.
FROM python:3.13-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/ackline
WORKDIR /source
COPY . .
RUN /opt/ackline/bin/pip install --no-cache-dir .

FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin ackline \
 && install -d -o ackline -g ackline -m 0700 /data
COPY --from=build /opt/ackline /opt/ackline
ENV PATH=/opt/ackline/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ACKLINE_DATA_DIR=/data
USER ackline
VOLUME /data
EXPOSE 7171 9171
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9171/healthz', timeout=4)"]
ENTRYPOINT ["ackline-server"]
