#!/bin/bash
# Files into and out of containers, and a whole container as a file. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "u1 u2 stopped" "" "" "course/ubuntu:3.7"

title "cp, out and in"
run "$DOCKER run -d --name u1 ubuntu sleep 1000"
run "$DOCKER exec u1 bash -c 'mkdir /work && echo from the container >/work/a.txt'"
run "$DOCKER cp u1:/work/a.txt $DATA/"
shows "from the container" "cat $DATA/a.txt"
run "echo from the host >$DATA/b.txt"
run "$DOCKER cp $DATA/b.txt u1:/work/"
shows "from the host" "$DOCKER exec u1 cat /work/b.txt"

title "cp of a container that does not run, of a folder, and as a stream"
run "$DOCKER stop -t 1 u1"
run "$DOCKER cp u1:/work $DATA/work"
shows "b.txt" "ls $DATA/work"
shows "work/a.txt" "$DOCKER cp u1:/work - | tar -t"

title "diff"
shows "A /work/a.txt" "$DOCKER diff u1"

title "export: a container's files, in one"
run "$DOCKER export u1 >$DATA/u1.tar"
shows "work/a.txt" "tar -tf $DATA/u1.tar work"
run "$DOCKER rm -f u1"

title "import: an image of them"
shows "sha256:" "cat $DATA/u1.tar | $DOCKER import - course/ubuntu:3.7"
run "$DOCKER images --format '{{.Repository}}:{{.Tag}}' course/ubuntu"
shows "from the container" "$DOCKER run --rm course/ubuntu:3.7 cat /work/a.txt"
fails "No command specified" "$DOCKER run --rm course/ubuntu:3.7"
shows "1" "$DOCKER history -q course/ubuntu:3.7 | wc -l"
