# shellcheck shell=bash disable=SC2154 # lib.sh sets said
# The life of a Redis cluster, the same on the host's network (this lesson) and on one of its own (the next). Who sources
# this says: start N starts node N, container N is its name, at N its address, cli N its redis-cli.

keys=100
slots=${slots:-4096}
all_there() { # N: every key can be read through node N
  shows "$keys" "for i in \$(seq $keys); do echo get key:\$i; done | $(cli "$1" -i) -c | grep -c value"
}
node_id() { eval "$(cli "$1") cluster myid"; }
agree() { # COUNT: the first COUNT nodes know each other, and agree; they gossip, so that this takes a moment
  local n info end=$((SECONDS + 300))
  for n in $(seq "$1"); do
    until info=$(eval "$(cli "$n") cluster info" 2>&1) && [[ $info == *state:ok*known_nodes:$1[^0-9]* ]]; do
      [ $SECONDS -lt $end ] || wrong "node $n does not know of a cluster of $1 nodes"
      sleep 0.1
    done
  done
  becomes "[OK] All nodes agree about slots configuration." "$(cli 1) --cluster check $(at 1) | grep -F '[OK]'"
}
# role N ROLE: node N comes to be a master or slave
role() { becomes "role:$2" "$(cli "$1") info replication | grep -E 'role|master_link'"; }
promote() { # N: node N, a replica, is made a master; what has not come about after 5 seconds Redis has given up
  becomes "OK" "$(cli "$1") cluster failover"
  local again=$((SECONDS + 10)) end=$((SECONDS + 300))
  until eval "$(cli "$1") info replication" | grep role:master >/dev/null; do
    [ $SECONDS -lt $end ] || wrong "node $1 does not become a master"
    if [ $SECONDS -ge $again ]; then
      again=$((SECONDS + 10))
      eval "$(cli "$1") cluster failover" >/dev/null 2>&1 || true
    fi
    sleep 0.1
  done
  role "$1" master
}

title "Six nodes"
for n in 1 2 3 4 5 6; do start $n; done
for n in 1 2 3 4 5 6; do becomes "PONG" "$(cli $n) ping"; done

title "One cluster of three masters and three replicas"
shows "[OK] All 16384 slots covered." "$(cli 1) --cluster create $(at 1) $(at 2) $(at 3) $(at 4) $(at 5) $(at 6) --cluster-replicas 1 --cluster-yes"
becomes "cluster_state:ok" "$(cli 1) cluster info | grep -E 'state|slots_ok|known_nodes|size'"
agree 6
run "$(cli 1) cluster nodes"

title "A key belongs to one master"
shows "MOVED 12706" "$(cli 1) set k1 v1"
shows "OK" "$(cli 1) -c set k1 v1"
shows "v1" "$(cli 2) -c get k1"
run "$(cli 1) -c del k1"
shows "$keys OK" "for i in \$(seq $keys); do echo set key:\$i value\$i; done | $(cli 1 -i) -c | grep OK | uniq -c"
shows "[OK] $keys keys in 3 masters." "$(cli 1) --cluster check $(at 1)"

title "A master stops, and its replica takes over"
first=$(node_id 1)
replica=
for n in 4 5 6; do
  if eval "$(cli $n) cluster nodes" | grep "myself,slave $first" >/dev/null; then replica=$n; fi
done
[ -n "$replica" ] || wrong "node 1 has no replica"
becomes "state=online" "$(cli 1) info replication | grep slave0"
run "$DOCKER stop $(container 1)"
role "$replica" master
becomes "cluster_state:ok" "$(cli 2) cluster info | grep state"
all_there 2

title "It comes back as a replica, and is made master again"
run "$DOCKER start $(container 1)"
role 1 slave
becomes "master_link_status:up" "$(cli 1) info replication | grep -E 'role|master_link'"
promote 1
role "$replica" slave
agree 6
all_there 1

title "Two more nodes"
for n in 7 8; do start $n; done
for n in 7 8; do becomes "PONG" "$(cli $n) ping"; done
shows "[OK] New node added correctly." "$(cli 7) --cluster add-node $(at 7) $(at 1) | tail -n 1"
agree 7
becomes "4 masters" "$(cli 1) --cluster check $(at 1) | head -n 5"
seventh=$(node_id 7)

title "$slots slots go to the new master, from all others"
run "$(cli 1) --cluster reshard $(at 1) --cluster-from all --cluster-to $seventh --cluster-slots $slots --cluster-yes | tail -n 1"
agree 7
shows "$slots slots" "$(cli 1) --cluster check $(at 1) | head -n 5"
all_there 7

title "And a replica to it"
shows "[OK] New node added correctly." "$(cli 8) --cluster add-node $(at 8) $(at 7) --cluster-slave --cluster-master-id $seventh | tail -n 1"
role 8 slave
agree 8

title "Smaller again: the replica, the slots, the master"
eighth=$(node_id 8)
shows "Sending CLUSTER RESET" "$(cli 1) --cluster del-node $(at 8) $eighth"
agree 7
run "$(cli 1) --cluster reshard $(at 1) --cluster-from $seventh --cluster-to $first --cluster-slots $slots --cluster-yes | tail -n 1"
agree 7
shows "Sending CLUSTER RESET" "$(cli 1) --cluster del-node $(at 7) $seventh"
agree 6

title "Three masters, three replicas, and no key is lost"
becomes "[OK] $keys keys in 3 masters." "$(cli 1) --cluster check $(at 1)"
all_there 3
