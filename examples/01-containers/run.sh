#!/bin/bash
# The everyday commands. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "u1 bg back"

title "A container is a program"
shows "hello" "$DOCKER run --rm ubuntu echo hello"
shows "Debian" "$DOCKER run --rm ubuntu head -n 1 /etc/os-release"
run "$DOCKER run --name u1 ubuntu bash -c 'echo a file >/tmp/a.txt; ls /tmp'"
shows "Exited (0)" "$DOCKER ps -a --filter name=u1 --format '{{.Names}} {{.Image}} {{.Status}}'"
hides "u1" "$DOCKER ps --format '{{.Names}}'"

title "In the background"
run "$DOCKER run -d --name bg ubuntu bash -c 'while true; do echo working; sleep 1; done'"
shows "Up" "$DOCKER ps --filter name=bg --format '{{.Names}} {{.Status}}'"
becomes "working" "$DOCKER logs bg"
shows "sleep 1" "$DOCKER top bg"
shows "running" "$DOCKER inspect -f '{{.State.Status}}' bg"

title "Why it may end at once"
run "$DOCKER run -d --name back ubuntu bash -c 'sleep 1000 &'"
becomes "Exited (0)" "$DOCKER ps -a --filter name=back --format '{{.Names}} {{.Status}}'"

title "Inside"
shows "working" "$DOCKER exec bg bash -c 'tr \"\\0\" \" \" </proc/1/cmdline'"
run "$DOCKER exec bg touch /tmp/made-by-exec"
shows "made-by-exec" "$DOCKER exec bg ls /tmp"

title "Stop, start, kill, remove"
run "$DOCKER stop -t 1 bg"
shows "Exited (137)" "$DOCKER ps -a --filter name=bg --format '{{.Status}}'"
run "$DOCKER start bg"
shows "made-by-exec" "$DOCKER exec bg ls /tmp"
run "$DOCKER restart -t 1 bg"
fails "force remove" "$DOCKER rm bg"
run "$DOCKER kill bg"
run "$DOCKER rm -f bg u1 back"
fails "No such container" "$DOCKER inspect --type container bg"
