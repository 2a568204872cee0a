#!/bin/bash
# Redis with a configuration of one's own and data that stays. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "plain myr3"

title "As it comes"
run "$DOCKER run -d --name plain redis:6.0.8"
becomes "PONG" "$DOCKER exec plain redis-cli ping"
shows "OK" "$DOCKER exec plain redis-cli set k1 v1"
shows "v1" "$DOCKER exec plain redis-cli get k1"
run "$DOCKER rm -f -v plain"

title "A configuration of one's own"
run "mkdir -p $DATA/redis"
run "cat >$DATA/redis/redis.conf <<END
# bind 127.0.0.1
requirepass 123
daemonize no
appendonly yes
dir /data
databases 10
END"
run "$DOCKER run -p 6379:6379 --name myr3 --privileged=true -v $DATA/redis/redis.conf:/etc/redis/redis.conf -v $DATA/redis/data:/data -d redis:6.0.8 redis-server /etc/redis/redis.conf"
becomes "NOAUTH" "$DOCKER exec myr3 redis-cli ping"
shows "PONG" "$DOCKER exec myr3 redis-cli -a 123 --no-auth-warning ping"
shows "OK" "$DOCKER exec myr3 redis-cli -a 123 --no-auth-warning set k1 v1"

title "The proof that it is this configuration"
shows "10" "$DOCKER exec myr3 redis-cli -a 123 --no-auth-warning config get databases"
shows "out of range" "$DOCKER exec myr3 redis-cli -a 123 --no-auth-warning -n 15 get k1"
run "sed -i 's/databases 10/databases 16/' $DATA/redis/redis.conf"
run "$DOCKER restart myr3"
becomes "16" "$DOCKER exec myr3 redis-cli -a 123 --no-auth-warning config get databases"
hides "out of range" "$DOCKER exec myr3 redis-cli -a 123 --no-auth-warning -n 15 get k1"

title "The data is on the host"
run "ls $DATA/redis/data/appendonlydir"
run "$DOCKER rm -f myr3"
run "$DOCKER run -p 6379:6379 --name myr3 --privileged=true -v $DATA/redis/redis.conf:/etc/redis/redis.conf -v $DATA/redis/data:/data -d redis:6.0.8 redis-server /etc/redis/redis.conf"
becomes "v1" "$DOCKER exec myr3 redis-cli -a 123 --no-auth-warning get k1"

title "From the host, through the published port"
shows "+PONG" "bash -c 'exec 3<>/dev/tcp/$HOST_IP/6379; printf \"AUTH 123\\r\\nPING\\r\\n\" >&3; head -n 2 <&3'"
