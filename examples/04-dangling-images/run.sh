#!/bin/bash
# Images without a name, and how they are removed. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "c1 c2" "" "" "draft"

title "The name moves on, and the old image has none"
run "$DOCKER run --name c1 ubuntu bash -c 'echo one >/one; head -c 5M /dev/zero >/zeros'"
run "$DOCKER commit c1 draft"
old=$($DOCKER image inspect -f '{{.Id}}' draft)
run "$DOCKER start -a c1"
run "$DOCKER commit -m 'the second try' c1 draft"
short=${old#sha256:}
short=${short:0:12}
shows "<none>   <none> $short" "$DOCKER images -f dangling=true --format '{{.Repository}}   {{.Tag}} {{.ID}}'"

title "It is still there, by its ID"
shows "one" "$DOCKER run --rm $short cat /one"

title "prune takes what has no name"
shows "deleted: $old" "$DOCKER image prune -f"
hides "$short" "$DOCKER images -f dangling=true --format '{{.ID}}'"
shows "draft" "$DOCKER images --format '{{.Repository}}'"

title "An image that a container uses stays"
run "$DOCKER run --name c2 draft true"
fails "conflict" "$DOCKER rmi draft"
run "$DOCKER rm c1 c2"
shows "Untagged: draft:latest" "$DOCKER rmi draft"
