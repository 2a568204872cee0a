#!/bin/sh
# What the official image's entrypoint does: options alone are the server's, and the server is not root.
set -e

case $1 in
-* | *.conf) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
	find . ! -user redis -exec chown redis {} +
	# The official server answers everyone who can reach it, unless its configuration says something else.
	case $2 in
	*.conf) grep -qs '^ *protected-mode' "$2" || set -- "$@" --protected-mode no ;;
	*) set -- "$@" --protected-mode no ;;
	esac
	exec setpriv --reuid=redis --regid=redis --clear-groups "$@"
fi
exec "$@"
