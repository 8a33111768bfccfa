# Build the Docker image, start it, and wait until its health check passes. Usage: sh deploy/image.sh NAME
set -eu
name=$1
docker build --tag "$name" .
container=$(docker run --detach --rm "$name")
trap 'docker kill "$container" >/dev/null' EXIT
for _ in $(seq 60); do
    state=$(docker inspect --format '{{.State.Health.Status}}' "$container")
    [ "$state" = healthy ] && exit 0
    sleep 1
done
docker logs "$container"
echo "error: $name is $state after a minute" >&2
exit 1
