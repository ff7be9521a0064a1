#!/bin/bash
# Build the image and run it as a random user: its configuration, `rwp-dist doctor`, a run of two ranks
# on the digits, and what SIGTERM does to one. Takes about ten minutes and 25 GB of disk.
#   docker/build_check.sh                    with docker or podman
#   sudo docker/build_check.sh               without: buildah, and a base made by debootstrap
# Without an engine nothing comes from a registry of images. BASE_IMAGE overrides the base, WHEELS the
# folder where Python's packages are kept from one check to the next (buildah only), CHECK_DIR the
# folder for everything else.
set -euo pipefail
cd "$(dirname "$0")/.."

image=rwp-dist:check
user=$((RANDOM + 20000)):$((RANDOM + 20000))
commit=$(git rev-parse HEAD)
created=$(date -u +%FT%TZ)
build_args=(--build-arg "COMMIT=$commit" --build-arg "CREATED=$created" -f docker/Dockerfile -t "$image")
if [ -n "${BASE_IMAGE:-}" ]; then build_args+=(--build-arg "BASE_IMAGE=$BASE_IMAGE"); fi

for engine in docker podman buildah ''; do
    case $engine in
        buildah) command -v buildah > /dev/null && break ;;
        '') echo "There is neither a Docker engine nor buildah; install one of them." >&2; exit 2 ;;
        *) "$engine" info > /dev/null 2>&1 && break ;;
    esac
done
echo "== $engine, user $user"

if [ "$engine" = buildah ]; then
    folder=${CHECK_DIR:-$(mktemp -d "${TMPDIR:-/var/tmp}/rwp-image-XXXXXX")}
    wheels=${WHEELS:-$HOME/.cache/rwp-dist-wheels}
    mkdir -p "$folder" "$wheels"
    container=
    store=(--storage-driver vfs --root "$folder/store" --runroot "$folder/run")
    # shellcheck disable=SC2329  # called by the trap
    clean() {
        [ -z "$container" ] || buildah "${store[@]}" rm "$container" > /dev/null
        rm -rf "$folder/store" "$folder/run"
        [ -n "${CHECK_DIR:-}" ] || rm -rf "$folder"
    }
    trap clean EXIT

    if [ -z "${BASE_IMAGE:-}" ]; then
        [ -d "$folder/base" ] || debootstrap --variant=minbase \
            --include=python3,python3-venv,python3-dev,ca-certificates bookworm "$folder/base" > "$folder/base.log"
        base=$(buildah "${store[@]}" from scratch)
        buildah "${store[@]}" add --quiet "$base" "$folder/base" / > /dev/null
        buildah "${store[@]}" commit --quiet --rm "$base" rwp-base:check > /dev/null
        build_args+=(--build-arg BASE_IMAGE=localhost/rwp-base:check)
    fi
    python3 -m pip download -qq --require-hashes --no-deps --dest "$wheels" --find-links "$wheels" \
        -r docker/requirements.lock -r docker/build.lock
    printf '[global]\nno-index = true\nfind-links = /wheels\n' > "$folder/pip.conf"
    time buildah "${store[@]}" build --isolation chroot --format docker --layers=false --quiet \
        --volume "$wheels:/wheels:ro" --volume "$folder/pip.conf:/etc/pip.conf:ro" "${build_args[@]}" .
    describe() { buildah "${store[@]}" inspect --type image "$image"; }
    container=$(buildah "${store[@]}" from --pull-never "$image")
    # The image's entrypoint is spelled out: `buildah run` ignores it.
    inside() { buildah "${store[@]}" run --isolation chroot --user "$user" "$container" -- tini -s -- "$@"; }
else
    time "$engine" build "${build_args[@]}" .
    describe() { "$engine" inspect --type image "$image"; }
    volume=$("$engine" volume create)
    # shellcheck disable=SC2064  # the volume of now
    trap "$engine volume rm $volume > /dev/null" EXIT
    "$engine" run --rm --user 0 --volume "$volume:/workspace/check" "$image" chmod 1777 /workspace/check
    inside() {
        "$engine" run --rm --user "$user" --ipc host --volume "$volume:/workspace/check" "$image" "$@"
    }
fi

echo "== configuration"
describe | python3 -c '
import json, sys
found = json.load(sys.stdin)
config = found[0]["Config"] if isinstance(found, list) else found["Docker"]["config"]
assert config["User"] == "1000:1000", config["User"]
assert config["Entrypoint"] == ["tini", "-s", "--"], config["Entrypoint"]
assert config["Healthcheck"]["Test"][-1] == "rwp_dist.process.heartbeat", config["Healthcheck"]
prefix = "org.opencontainers.image."
labels = {key.removeprefix(prefix): value for key, value in config["Labels"].items()}
assert [labels["revision"], labels["created"], labels["licenses"]] == [*sys.argv[1:], "Apache-2.0"], labels
' "$commit" "$created"

echo "== doctor"
inside rwp-dist shards digits --out check/digits
data=(data.train=check/digits/train data.val=check/digits/test)
inside rwp-dist doctor configs/digits.yaml "${data[@]}" variant=m-rwp

echo "== two ranks"
inside rwp-launch run configs/digits.yaml --nproc 2 "${data[@]}" variant=m-rwp run.dir=check/run
inside python3 -c '
import json
summary, environment = (json.load(open(f"check/run/{n}.json")) for n in ("summary", "environment"))
assert summary["steps"] == 320 and summary["top1"] > 90, summary
assert environment["world_size"] == 2 and environment["git"]["commit"], environment
'
inside python -m rwp_dist.process.heartbeat

echo "== SIGTERM saves"
# shellcheck disable=SC2016  # the container's shell expands it
inside bash -c '
tini -s -- rwp-launch run configs/digits.yaml --nproc 2 "$@" variant=m-rwp schedule.steps=100000 \
    run.dir=check/long tracking.log_every=10 > check/long.txt 2>&1 &
until python -m rwp_dist.process.heartbeat | grep -q "last beat"; do sleep 0.5; done
kill -TERM $!; wait $!; code=$?
tail -n 2 check/long.txt
[ $code = 75 ] && ls check/long/checkpoints/step-*.pt && [ ! -e "$RWP_HEARTBEAT" ]
' _ "${data[@]}"
echo "== all passed: $image ran as $user"
