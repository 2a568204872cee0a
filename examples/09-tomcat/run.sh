#!/bin/bash
# Tomcat on port 8080: 404 at first, and why. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "t1"

title "Start it"
run "$DOCKER run -d --name t1 -p 8080:8080 tomcat"
shows "0.0.0.0:8080->8080/tcp" "$DOCKER ps --format '{{.Names}}: {{.Ports}}'"

title "404"
becomes "HTTP/1.1 404" "curl -s -I http://127.0.0.1:8080/ | head -n 1"

title "The pages are in webapps.dist"
shows "" "$DOCKER exec t1 ls -l webapps"
shows "ROOT" "$DOCKER exec t1 ls webapps.dist"
run "$DOCKER exec t1 bash -c 'rm -r webapps && mv webapps.dist webapps'"
becomes "HTTP/1.1 200" "curl -s -I http://127.0.0.1:8080/ | head -n 1"
shows "It works !" "curl -s http://$HOST_IP:8080/ | grep h1"

title "What Tomcat said"
shows "Starting ProtocolHandler" "$DOCKER logs t1 2>&1 | grep -o 'Starting ProtocolHandler.*'"
run "$DOCKER stop t1"
