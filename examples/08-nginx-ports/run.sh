#!/bin/bash
# A web server behind published ports, in every form of -p. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "web web2 web3 web4 web5 echo"

title "-p HOST:CONTAINER"
run "$DOCKER run -d --name web -p 8081:80 nginx"
becomes "Welcome to nginx!" "curl -s http://127.0.0.1:8081 | grep title"
shows "Welcome to nginx!" "curl -s http://$HOST_IP:8081 | grep title"
shows "0.0.0.0:8081" "$DOCKER port web"
shows "0.0.0.0:8081->80/tcp" "$DOCKER ps --format '{{.Names}}: {{.Ports}}' --filter name=web"

title "Who asks"
becomes "$HOST_IP - - " "$DOCKER logs web 2>/dev/null"

title "From another container"
run "$DOCKER run -d --name web2 nginx"
get="exec 3<>/dev/tcp/$HOST_IP/8081; echo GET / >&3; grep title <&3"
shows "Welcome to nginx!" "$DOCKER exec web2 bash -c '$get'"
shows "Welcome to nginx!" "$DOCKER exec web bash -c '$get'"

title "-p IP:HOST:CONTAINER"
run "$DOCKER run -d --name web3 -p 127.0.0.1:8082:80 nginx"
becomes "Welcome to nginx!" "curl -s http://127.0.0.1:8082 | grep title"
fails "" "curl -s -S http://$HOST_IP:8082"

title "-p IP::CONTAINER, and -P"
run "$DOCKER run -d --name web4 -p $HOST_IP::80 nginx"
port=$($DOCKER port web4 80/tcp | sed 's/.*://')
shows "$HOST_IP:$port" "$DOCKER port web4 80"
becomes "Welcome to nginx!" "curl -s http://$HOST_IP:$port | grep title"
$DOCKER rm -f web4 >/dev/null
run "$DOCKER run -d --name web4 -P nginx"
port=$($DOCKER port web4 80/tcp | sed -n 's/^0.0.0.0://p')
run "$DOCKER port web4"
becomes "Welcome to nginx!" "curl -s http://127.0.0.1:$port | grep title"

title "Ranges, and several -p"
run "$DOCKER run -d --name web5 -p 8090-8092:80-82 -p 8443:80 nginx"
run "$DOCKER port web5"
becomes "Welcome to nginx!" "curl -s http://127.0.0.1:8090 | grep title"
shows "Welcome to nginx!" "curl -s http://127.0.0.1:8443 | grep title"

title "-p HOST:CONTAINER/udp"
# shellcheck disable=SC2016 # Perl's variables
server='use Socket; socket(S,AF_INET,SOCK_DGRAM,0); bind(S,sockaddr_in(5353,INADDR_ANY)); while($a=recv(S,$b,512,0)){send(S,"you said $b",0,$a)}'
run "$DOCKER run -d --name echo -p 5353:5353/udp debian perl -e '$server'"
shows "5353/udp -> 0.0.0.0:5353" "$DOCKER port echo"
becomes "you said hello" "bash -c 'exec 3<>/dev/udp/127.0.0.1/5353; echo hello >&3; timeout 1 head -n 1 <&3'"

title "A port that is taken"
fails "port is already allocated" "$DOCKER run --rm -p 8081:80 nginx"
