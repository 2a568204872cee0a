# shellcheck shell=bash
# configure JSON TEXT: gives the engine a configuration, for this lesson, and waits until it says TEXT of its registries.
# One of your own that is there is not touched.
case $DOCKER in
*gantry*) DAEMON_JSON=${DAEMON_JSON:-/etc/gantry/daemon.json} PIDFILE=${PIDFILE:-/run/gantry.pid} ;;
*) DAEMON_JSON=${DAEMON_JSON:-/etc/docker/daemon.json} PIDFILE=${PIDFILE:-/run/docker.pid} ;;
esac

configure() {
  if [ -s "$DAEMON_JSON" ] && [ "$(tr -d '[:space:]' <"$DAEMON_JSON")" != "{}" ] && [ -z "${configured-}" ]; then
    wrong "$DAEMON_JSON is yours: put this into it and reload the engine: $1"
  fi
  configured=yes
  trap 'unconfigure; take_away' EXIT
  mkdir -p "$(dirname "$DAEMON_JSON")"
  run "echo '$1' >$DAEMON_JSON"
  run "kill -HUP \$(cat $PIDFILE)"
  local end=$((SECONDS + 300))
  until $DOCKER info --format '{{json .RegistryConfig}}' | grep -F "$2" >/dev/null; do
    [ $SECONDS -lt $end ] || wrong "the engine does not know of $2"
    sleep 0.1
  done
}

unconfigure() {
  echo '{}' >"$DAEMON_JSON"
  kill -HUP "$(cat "$PIDFILE")"
}
