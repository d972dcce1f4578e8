# `make image` builds it, with the commit's stamp; without arguments it is "unknown".
# Where a registry can be reached, pin the image by digest: --build-arg GO_IMAGE=golang:1.26@sha256:…
ARG GO_IMAGE=golang:1.26

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
# Go compiles for other platforms by itself; nothing runs under emulation.
ARG TARGETOS TARGETARCH TARGETVARIANT
ARG VERSION REVISION BRANCH DATE
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH GOARM=${TARGETVARIANT#v} make build

FROM scratch
ARG VERSION=unknown
ARG REVISION=unknown
ARG DATE=unknown
LABEL org.opencontainers.image.title="memdump_exporter" \
      org.opencontainers.image.description="Prometheus exporter for the memory dumps of virtual machines, as recorded in InfluxDB" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${DATE}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/bin/memdump_exporter /memdump_exporter
USER 65532:65532
EXPOSE 10147
ENTRYPOINT ["/memdump_exporter"]
