#!/bin/bash
# A database that follows another: source and replica in two containers. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "mysql-master mysql-slave" "mysql-net"
sql="mysql -uroot -proot"
master="$DATA/mysql-master" slave="$DATA/mysql-slave"

title "A network on which containers find each other by name"
run "$DOCKER network create mysql-net"

title "The source, on port 3307"
run "$DOCKER run -p 3307:3306 --name mysql-master --network mysql-net -v $master/log:/var/log/mysql -v $master/data:/var/lib/mysql -v $master/conf:/etc/mysql -e MYSQL_ROOT_PASSWORD=root -d mysql:5.7"
becomes "ready" "$DOCKER exec mysql-master $sql -Nse \"select 'ready'\""
run "cat >$master/conf/my.cnf <<END
[mysqld]
server_id=101
binlog-ignore-db=mysql
log-bin=mall-mysql-bin
binlog_cache_size=1M
binlog_format=mixed
expire_logs_days=7
slave_skip_errors=1062
END"
run "$DOCKER restart mysql-master"
becomes "server_id	101" "$DOCKER exec mysql-master $sql -Nse \"show variables like 'server_id'\""

title "Who may follow it"
run "$DOCKER exec mysql-master $sql -e \"CREATE USER 'slave'@'%' IDENTIFIED BY '123456'\""
run "$DOCKER exec mysql-master $sql -e \"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'slave'@'%'\""

title "The replica, on port 3308"
run "$DOCKER run -p 3308:3306 --name mysql-slave --network mysql-net -v $slave/log:/var/log/mysql -v $slave/data:/var/lib/mysql -v $slave/conf:/etc/mysql -e MYSQL_ROOT_PASSWORD=root -d mysql:5.7"
becomes "ready" "$DOCKER exec mysql-slave $sql -Nse \"select 'ready'\""
run "cat >$slave/conf/my.cnf <<END
[mysqld]
server_id=102
binlog-ignore-db=mysql
log-bin=mall-mysql-slave1-bin
binlog_cache_size=1M
binlog_format=mixed
expire_logs_days=7
slave_skip_errors=1062
relay_log=mall-mysql-relay-bin
log_slave_updates=1
read_only=1
END"
run "$DOCKER restart mysql-slave"
becomes "server_id	102" "$DOCKER exec mysql-slave $sql -Nse \"show variables like 'server_id'\""

title "Where the source stands, and the replica told to follow from there"
shows "mall-mysql-bin.000001" "$DOCKER exec mysql-master $sql -e 'show master status'"
# shellcheck disable=SC2154 # set by run
position=$(printf '%s\n' "$said" | sed -n 's/^mall-mysql-bin.000001\t\([0-9]*\).*/\1/p')
follow() { # host port
  run "$DOCKER exec mysql-slave $sql -e \"change master to master_host='$1', master_user='slave', master_password='123456', master_port=$2, master_log_file='mall-mysql-bin.000001', master_log_pos=$position, master_connect_retry=30\""
}
follow mysql-master 3306
shows "Slave_IO_Running: No" "$DOCKER exec mysql-slave $sql -e 'show slave status \\G' | grep Running:"
run "$DOCKER exec mysql-slave $sql -e 'start slave'"
both="Slave_IO_Running: Yes
             Slave_SQL_Running: Yes"
becomes "$both" "$DOCKER exec mysql-slave $sql -e 'show slave status \\G' | grep Running:"

title "What is written there is read here"
run "$DOCKER exec mysql-master $sql -e \"create database db01 character set utf8; create table db01.t1 (id int, name varchar(20)); set names utf8; insert into db01.t1 values (1, 'z3'), (2, '李四')\""
becomes "李四" "$DOCKER exec mysql-slave $sql --default-character-set=utf8 -e 'select * from db01.t1'"
run "$DOCKER exec mysql-slave $sql -Nse 'select @@read_only'"

title "The source goes away and comes back"
run "$DOCKER stop mysql-master"
becomes "Slave_IO_Running: Connecting" "$DOCKER exec mysql-slave $sql -e 'show slave status \\G' | grep Running:"
shows "李四" "$DOCKER exec mysql-slave $sql --default-character-set=utf8 -e 'select * from db01.t1'"
run "$DOCKER start mysql-master"
becomes "server_id	101" "$DOCKER exec mysql-master $sql -Nse \"show variables like 'server_id'\""
run "$DOCKER exec mysql-master $sql -e \"insert into db01.t1 values (3, 'w5')\""
run "$DOCKER exec mysql-slave $sql -e 'stop slave; start slave'"
becomes "w5" "$DOCKER exec mysql-slave $sql -e 'select * from db01.t1'"

title "The same by the host's address and the published port"
run "$DOCKER exec mysql-slave $sql -e 'stop slave'"
run "$DOCKER exec mysql-slave $sql -e \"change master to master_host='$HOST_IP', master_port=3307\""
run "$DOCKER exec mysql-slave $sql -e 'start slave'"
run "$DOCKER exec mysql-master $sql -e \"insert into db01.t1 values (4, 'z6')\""
becomes "z6" "$DOCKER exec mysql-slave $sql -e 'select * from db01.t1'"
