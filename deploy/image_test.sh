#!/bin/sh
# Builds the image as `make image` does, with buildah instead of an engine and this machine's
# Go in place of the golang image, so that no registry is needed; looks at what is in it; and
# runs it with a read-only root. Called by `make test-image`, which has built the binary.
set -eu
cd "$(dirname "$0")/.."
fail() { echo "image: $*" >&2; exit 1; }

if ! command -v buildah >/dev/null; then
  { [ "$(id -u)" = 0 ] && apt-get update && apt-get install -y --no-install-recommends buildah; } >/dev/null 2>&1 ||
    { echo 'image: NOT TESTED: no buildah here, and none to be installed'; exit 0; }
fi
[ "$(id -u)" = 0 ] || { echo 'image: NOT TESTED: only root can build and run it here'; exit 0; }

dir=$(mktemp -d)
export TMPDIR="$dir" # of buildah's own files too
buildah="buildah --root $dir/storage --runroot $dir/run --storage-driver vfs"
cleanup() {
  [ -z "${pid:-}" ] || kill "$pid" || true
  $buildah umount --all >/dev/null 2>&1 || true
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

echo '== a stand-in for the golang image'
base=$($buildah from scratch)
root=$($buildah mount "$base")
mkdir -p "$root/usr/local" "$root/tmp"
for program in /bin/sh /usr/bin/make; do echo "$program"; ldd "$program" | grep -o '/[^ ]*'; done |
  sort -u | xargs -I{} cp -L --parents {} "$root"
cp -L --parents /etc/ssl/certs/ca-certificates.crt "$root"
cp -a "$(go env GOROOT)" "$root/usr/local/go"
$buildah config --env PATH=/usr/local/go/bin:/usr/bin:/bin --env GOPROXY=file:///modules --env GOSUMDB=off \
  --env GOTOOLCHAIN=local --env GOPATH=/go --env GOCACHE=/root/.cache/go-build "$base"
$buildah commit -q --rm "$base" localhost/golang-stand-in >/dev/null

echo '== make image'
make -s image ENGINE="$buildah" IMAGE=localhost/memdump_exporter VERSION=image-test \
  IMAGE_FLAGS="--isolation chroot --build-arg GO_IMAGE=localhost/golang-stand-in --volume $(go env GOMODCACHE)/cache/download:/modules:ro" >"$dir/log" 2>&1 || { cat "$dir/log"; fail 'not built'; }
image=localhost/memdump_exporter:image-test

echo '== configuration and labels'
config=$($buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.ExposedPorts}} {{index .OCIv1.Config.Labels "org.opencontainers.image.version"}} {{index .OCIv1.Config.Labels "org.opencontainers.image.revision"}} {{index .OCIv1.Config.Labels "org.opencontainers.image.created"}}' $image)
echo "$config"
set -- $config
[ "$1 $2 $3 $4" = '65532:65532 [/memdump_exporter] map[10147/tcp:{}] image-test' ] || fail 'user, entry point, port or version'
[ "$5" = "$(git rev-parse HEAD)" ] || fail 'the label of the revision'
[ "$6" = "$(make -s --eval='show:;@echo $(DATE)' show)" ] || fail 'the label of the date'

echo '== what is in it'
work=$($buildah from $image)
root=$($buildah mount "$work")
(cd "$root" && find . -type f -exec ls -l {} +)
files=$(cd "$root" && find . -type f | sort | tr '\n' ' ')
[ "$files" = './etc/ssl/certs/ca-certificates.crt ./memdump_exporter ' ] || fail "other files than the binary and the CA bundle: $files"
bytes=$(find "$root" -type f -printf '%s\n' | awk '{ n += $1 } END { print n }')
echo "$bytes bytes"
[ "$bytes" -le 20000000 ] || fail 'larger than 20 MB'
make -s build VERSION=image-test >/dev/null
cmp bin/memdump_exporter "$root/memdump_exporter" || fail 'the binary is not the one that make build makes'
make -s build >/dev/null

echo '== run: read-only root, user 65532, no capability, no way to get one'
unshare --mount sh -c 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec setpriv --no-new-privs \
  unshare --root="$0" --wd=/ --setgid 65532 --setuid 65532 /memdump_exporter --web.listen-address=127.0.0.1:0 --influx.url=http://127.0.0.1:1' \
  "$root" 2>"$dir/log" &
pid=$!
for _ in $(seq 100); do
  address=$(sed -n 's/.*msg="Listening on" address=//p' "$dir/log"); [ -z "$address" ] || break; sleep 0.1
done
curl -sf "http://$address/metrics" >"$dir/metrics" || { cat "$dir/log"; fail 'no response'; }
awk '$5 == "/" { print "root mounted", $6 }' "/proc/$pid/mountinfo" | tee "$dir/root"
grep -q '^root mounted ro' "$dir/root" || fail 'the root is not read-only'
grep -E '^(Uid|CapEff|NoNewPrivs):' "/proc/$pid/status"
[ "$(awk '$1 == "Uid:" { print $2 } $1 == "CapEff:" { print $2 }' "/proc/$pid/status" | tr '\n' ' ')" = '65532 0000000000000000 ' ] || fail 'another user, or a capability'
grep -E '^memdump_(up|exporter_build_info|dumps)' "$dir/metrics"
grep -q '^memdump_up 0$' "$dir/metrics" && grep -q 'version="image-test"' "$dir/metrics" || fail 'not the metrics without InfluxDB'
! grep -q '^memdump_dumps' "$dir/metrics" || fail 'a metric without InfluxDB'
echo 'image: as it should be'
