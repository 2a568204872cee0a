#!/bin/bash
# What the official image's entrypoint does with an empty data directory: makes the system tables, root's password, a
# database and a user of the environment's, and runs what lies in /docker-entrypoint-initdb.d. The server is not root.
set -eo pipefail

data=/var/lib/mysql
case $1 in
-*) set -- mysqld "$@" ;;
esac
if [ "$1" != mysqld ] && [ "$1" != mariadbd ]; then exec "$@"; fi

as_mysql() { setpriv --reuid=mysql --regid=mysql --clear-groups "$@"; }
quoted() { printf "'%s'" "${1//\'/\'\'}"; }

if [ "$(id -u)" = 0 ]; then
	mkdir -p "$data" /run/mysqld /var/log/mysql
	find "$data" /run/mysqld /var/log/mysql ! -user mysql -exec chown mysql:mysql {} +
fi
if [ ! -d "$data/mysql" ]; then
	password=${MYSQL_ROOT_PASSWORD-${MARIADB_ROOT_PASSWORD-}}
	if [ -z "$password" ] && [ -z "$MYSQL_ALLOW_EMPTY_PASSWORD" ]; then
		echo >&2 "[ERROR] [Entrypoint]: Database is uninitialized and password option is not specified
    You need to specify one of MYSQL_ROOT_PASSWORD, MYSQL_ALLOW_EMPTY_PASSWORD"
		exit 1
	fi
	echo "[Note] [Entrypoint]: Initializing database files"
	sql=$(mktemp)
	{
		echo "FLUSH PRIVILEGES;"
		echo "ALTER USER root@localhost IDENTIFIED BY $(quoted "$password");"
		echo "CREATE USER root@'%' IDENTIFIED BY $(quoted "$password");"
		echo "GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;"
		if [ -n "$MYSQL_DATABASE" ]; then echo "CREATE DATABASE \`$MYSQL_DATABASE\`;"; fi
		if [ -n "$MYSQL_USER" ]; then
			echo "CREATE USER $(quoted "$MYSQL_USER")@'%' IDENTIFIED BY $(quoted "$MYSQL_PASSWORD");"
			[ -z "$MYSQL_DATABASE" ] || echo "GRANT ALL ON \`$MYSQL_DATABASE\`.* TO $(quoted "$MYSQL_USER")@'%';"
		fi
		for f in /docker-entrypoint-initdb.d/*.sql; do
			[ ! -f "$f" ] || { [ -z "$MYSQL_DATABASE" ] || echo "USE \`$MYSQL_DATABASE\`;"; cat "$f"; }
		done
	} >"$sql"
	chmod 644 "$sql"
	# Data that is only being made needs no durability: a crash makes it again.
	as_mysql mariadb-install-db --datadir="$data" --auth-root-authentication-method=normal --skip-test-db \
		--extra-file="$sql" --skip-log-bin --innodb-flush-method=nosync >/dev/null
	rm "$sql"
	sync -f "$data"
	echo "[Note] [Entrypoint]: MariaDB init process done. Ready for start up."
fi
if [ "$(id -u)" = 0 ]; then exec setpriv --reuid=mysql --regid=mysql --clear-groups "$@"; fi
exec "$@"
