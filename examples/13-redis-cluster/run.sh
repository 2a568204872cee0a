#!/bin/bash
# A Redis cluster on the host's own network: made, used, broken, mended, grown and shrunk. README.md tells the story;
# what is done to the cluster is in cluster.sh.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "$(echo redis-node-{1..8})"

container() { echo "redis-node-$1"; }
start() {
  run "$DOCKER run -d --name redis-node-$1 --net host --privileged=true -v $DATA/redis-node-$1:/data redis:6.0.8 --cluster-enabled yes --appendonly yes --port 638$1 --cluster-node-timeout 5000"
}
at() { echo "$HOST_IP:638$1"; }
cli() { echo "$DOCKER exec ${2:+$2 }redis-node-$1 redis-cli -p 638$1"; }

# shellcheck source=/dev/null
. "$(dirname "$0")/cluster.sh"
