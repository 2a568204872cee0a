#!/bin/bash
# CMD and ENTRYPOINT, alone and together, and what arguments do to them. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "" "" "" "cmd-shell cmd-exec both entry-shell entry-exec nothing"
export DOCKER_BUILDKIT=0 # the stock command line's own builder; gantry has one only
cd "$DATA" || exit

title "CMD: what runs if you say nothing"
run "printf 'FROM busybox\nCMD echo the shell runs this: \$0\n' | $DOCKER build -q -t cmd-shell -"
shows "the shell runs this: /bin/sh" "$DOCKER run --rm cmd-shell"
run "printf 'FROM busybox\nCMD [\"echo\", \"no shell:\", \"\$HOME\"]\n' | $DOCKER build -q -t cmd-exec -"
shows "no shell: \$HOME" "$DOCKER run --rm cmd-exec"

title "Arguments take CMD's place"
shows "/bin" "$DOCKER run --rm cmd-exec ls -d /bin"
hides "no shell" "$DOCKER run --rm cmd-exec echo mine"

title "ENTRYPOINT: what runs always; CMD is its arguments"
run "printf 'FROM busybox\nENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"and default\"]\n' | $DOCKER build -q -t both -"
shows "entry and default" "$DOCKER run --rm both"
shows "entry and mine" "$DOCKER run --rm both and mine"
shows "not the entry" "$DOCKER run --rm --entrypoint printf both 'not the entry\n'"

title "All combinations"
run "printf 'FROM busybox\nENTRYPOINT echo shell entry\nCMD [\"unseen\"]\n' | $DOCKER build -q -t entry-shell -"
shows "shell entry" "$DOCKER run --rm entry-shell"
hides "unseen" "$DOCKER run --rm entry-shell also unseen"
run "printf 'FROM busybox\nENTRYPOINT [\"echo\", \"exec entry\"]\nCMD a shell line\n' | $DOCKER build -q -t entry-exec -"
shows "exec entry /bin/sh -c a shell line" "$DOCKER run --rm entry-exec"
run "printf 'FROM scratch\nLABEL empty=yes\n' | $DOCKER build -q -t nothing -"
fails "o command specified" "$DOCKER run --rm nothing"

title "The last one counts"
run "printf 'FROM busybox\nCMD echo first\nCMD echo second\n' | $DOCKER build -q -t cmd-shell -"
hides "first" "$DOCKER run --rm cmd-shell"
shows '["/bin/sh","-c","echo second"]' "$DOCKER image inspect -f '{{json .Config.Cmd}}' cmd-shell"
