#!/bin/bash
# The same cluster on a network of its own, where each node has an address. README.md tells the story; what is done to
# the cluster is in ../13-redis-cluster/cluster.sh.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "$(echo node-{1..8})" "redis-net"

container() { echo "node-$1"; }
start() {
  run "$DOCKER run -d --name node-$1 --network redis-net --ip 172.38.0.1$1 -v $DATA/node-$1:/data redis:6.0.8 --cluster-enabled yes --appendonly yes --cluster-node-timeout 5000"
}
at() { echo "172.38.0.1$1:6379"; }
cli() { echo "$DOCKER exec ${2:+$2 }node-$1 redis-cli"; }

# shellcheck disable=SC2034 # for cluster.sh: a move takes its time, and the lesson before has moved many
slots=1024

title "A network with addresses that we choose"
run "$DOCKER network create --subnet 172.38.0.0/16 redis-net"
shows "172.38.0.0/16" "$DOCKER network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' redis-net"

# shellcheck source=/dev/null
. "$(dirname "$0")/../13-redis-cluster/cluster.sh"
