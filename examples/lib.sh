# shellcheck shell=bash
# What the lessons share. A lesson shows each command before it runs it, and ends with an error as soon as something
# that it shows is not as the lesson says. All of it also runs on Docker: DOCKER=docker ./run.sh
set -euo pipefail

DOCKER=${DOCKER:-gantry}

# Where a lesson keeps its files on the host; emptied before and after it.
DATA=${DATA:-/tmp/lesson}

# The host's own address, not 127.0.0.1, as its neighbours see it.
HOST_IP=${HOST_IP:-$(ip -4 route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')}

# title TEXT: what comes next.
title() { printf '\n## %s\n\n' "$*"; }

# run COMMAND: shows a line of shell, runs it, and shows what it said.
run() {
  printf '$ %s\n' "$1"
  local failed=
  said=$(eval "$1" 2>&1) || failed=yes
  [ -z "$said" ] || printf '%s\n' "$said"
  [ -z "$failed" ] || wrong "it failed"
}

# shows TEXT COMMAND: run, and TEXT must be in what the command said.
shows() {
  run "$2"
  case $said in *"$1"*) ;; *) wrong "it should have said: $1" ;; esac
}

# hides TEXT COMMAND: run, and TEXT must not be there.
hides() {
  run "$2"
  case $said in *"$1"*) wrong "it should not have said: $1" ;; esac
}

# fails TEXT COMMAND: a command that must fail, and say TEXT.
fails() {
  printf '$ %s\n' "$2"
  local failed=
  said=$(eval "$2" 2>&1) || failed=yes
  printf '%s\n' "$said"
  [ -n "$failed" ] || wrong "it should have failed"
  case $said in *"$1"*) ;; *) wrong "it should have said: $1" ;; esac
}

# becomes TEXT COMMAND: the command again and again, for five minutes at most, until it says TEXT; shown once.
becomes() {
  printf '$ %s\n' "$2"
  local end=$((SECONDS + 300))
  while said=$(eval "$2" 2>&1) || true; case $said in *"$1"*) false ;; esac do
    [ $SECONDS -lt $end ] || { printf '%s\n' "$said" && wrong "it should have come to say: $1"; }
    sleep 0.1
  done
  printf '%s\n' "$said"
}

# head reads all that it is given: a program that still writes when nobody reads any more would end with an error, now and then.
head() {
  command head "$@"
  [ ! -p /dev/stdin ] || cat >/dev/null
}

# wrong TEXT: ends the lesson.
wrong() {
  printf 'WRONG: %s\n' "$1" >&2
  exit 1
}

# A lesson says what it makes, so that it finds none of it at its start and leaves none behind:
# makes "CONTAINER..." ["NETWORK..." ["VOLUME..." ["IMAGE..."]]]
makes() {
  made=("$1" "${2-}" "${3-}" "${4-}")
  take_away
  mkdir -p "$DATA"
  trap take_away EXIT
}

take_away() {
  # Words are names; what is not there is as it should be.
  # shellcheck disable=SC2086
  {
    [ -z "${made[0]}" ] || $DOCKER rm -f -v ${made[0]}
    [ -z "${made[1]}" ] || $DOCKER network rm ${made[1]}
    [ -z "${made[2]}" ] || $DOCKER volume rm ${made[2]}
    [ -z "${made[3]}" ] || $DOCKER rmi -f ${made[3]}
  } >/dev/null 2>&1 || true
  rm -rf "$DATA"
}
