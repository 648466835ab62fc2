#!/bin/sh
# The image of Dockerfile, built by buildah on a Debian that debootstrap makes, and in it, as its user,
# `make test-quick`. For root on Debian, with about 15 GB below TMPDIR and some minutes of time.
#   IMAGE_ARGS    further arguments of `buildah build`: --build-arg DEVICE=gpu, or a --volume with
#                 what this machine needs to reach a package index
set -eu
for tool in debootstrap buildah git; do
    command -v "$tool" >/dev/null || { echo "error: install $tool (apt install $tool)" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "error: debootstrap needs root" >&2; exit 2; }

project=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/criticflow-image.XXXXXX")
buildah() { command buildah --root "$work/images" --runroot "$work/run" --storage-driver vfs "$@"; }
clean() { buildah rm --all >/dev/null 2>&1 || true; rm -rf --one-file-system "$work"; }
trap clean EXIT
trap 'exit 130' INT TERM

base=$(sed -n 's/^FROM //p' "$project/Dockerfile")
suite=${base#*:} && suite=${suite%-slim}
echo "image: $suite by debootstrap, as $base"
debootstrap --variant=minbase "$suite" "$work/root" >"$work/debootstrap.log" 2>&1 ||
    { cat "$work/debootstrap.log" >&2; exit 1; }
tar -C "$work/root" --one-file-system -cf "$work/root.tar" .
rm -rf --one-file-system "$work/root"
scratch=$(buildah from scratch)
buildah add --quiet "$scratch" "$work/root.tar" / >/dev/null
buildah commit --quiet --rm "$scratch" "localhost/$base" >/dev/null
rm "$work/root.tar"

echo "image: the steps of Dockerfile"
mkdir "$work/context"
(cd "$project" && git ls-files --cached --others --exclude-standard -z | tar --null -T - -c) |
    tar -x -C "$work/context"
# shellcheck disable=SC2086 (words of their own)
buildah build --isolation chroot --network host --pull-never --layers=false ${IMAGE_ARGS:-} \
    --tag criticflow "$work/context"

echo "image: make test-quick in it"
container=$(buildah from --pull-never localhost/criticflow)
buildah run --isolation chroot --network host "$container" -- \
    sh -c 'test "$(id -u)" != 0 && make test-quick'
