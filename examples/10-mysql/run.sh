#!/bin/bash
# A database, its Chinese text, and where its data stays. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "simple mysql"
sql="mysql -uroot -p123456"

title "Simple: a container alone"
run "$DOCKER run -d --name simple -p 3306:3306 -e MYSQL_ROOT_PASSWORD=123456 mysql:5.7"
becomes "ready" "$DOCKER exec simple $sql -Nse \"select 'ready'\""
run "$DOCKER exec simple $sql -e 'create database db01; create table db01.t1 (id int, name varchar(20))'"
run "$DOCKER exec simple $sql -e \"insert into db01.t1 values (1, 'abc')\""
shows "abc" "$DOCKER exec simple $sql -e 'select * from db01.t1'"

title "Simple: Chinese does not work"
shows "character_set_server	latin1" "$DOCKER exec simple $sql -e \"show variables like 'character_set_server'\""
fails "Incorrect string value" "$DOCKER exec simple $sql --default-character-set=utf8 -e \"insert into db01.t1 values (2, '张三')\""

title "Simple: with the container its data is gone"
run "$DOCKER rm -f -v simple"

title "Real: the data, the configuration and the logs in folders of the host"
run "mkdir -p $DATA/mysql/conf"
run "$DOCKER run -d -p 3306:3306 --privileged=true -v $DATA/mysql/log:/var/log/mysql -v $DATA/mysql/data:/var/lib/mysql -v $DATA/mysql/conf:/etc/mysql/conf.d -e MYSQL_ROOT_PASSWORD=123456 --name mysql mysql:5.7"
becomes "ready" "$DOCKER exec mysql $sql -Nse \"select 'ready'\""
run "cat >$DATA/mysql/conf/my.cnf <<END
[client]
default_character_set=utf8
[mysqld]
collation_server = utf8_general_ci
character_set_server = utf8
END"
run "$DOCKER restart mysql"
becomes "character_set_server	utf8" "$DOCKER exec mysql $sql -e \"show variables like 'character%'\""
run "$DOCKER exec mysql $sql -e 'create database db01; create table db01.t1 (id int, name varchar(20))'"
run "$DOCKER exec mysql $sql -e \"insert into db01.t1 values (1, 'z3'), (2, '张三')\""
shows "张三" "$DOCKER exec mysql $sql -e 'select * from db01.t1'"
shows "E5BCA0E4B889" "$DOCKER exec mysql $sql -Nse 'select hex(name) from db01.t1 where id = 2'"

title "Real: from another machine"
shows "张三" "$DOCKER run --rm mysql:5.7 mysql -h$HOST_IP -uroot -p123456 --default-character-set=utf8 -e 'select * from db01.t1'"

title "Real: another container takes over"
run "$DOCKER rm -f mysql"
run "ls $DATA/mysql/data/db01"
run "$DOCKER run -d -p 3306:3306 --privileged=true -v $DATA/mysql/log:/var/log/mysql -v $DATA/mysql/data:/var/lib/mysql -v $DATA/mysql/conf:/etc/mysql/conf.d -e MYSQL_ROOT_PASSWORD=123456 --name mysql mysql:5.7"
becomes "张三" "$DOCKER exec mysql $sql -e 'select * from db01.t1'"
