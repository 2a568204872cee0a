#!/bin/bash
# A registry that asks who you are, and one that all pulls go through. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
# shellcheck source=/dev/null
. "$(dirname "$0")/../05-registry/daemon-json.sh"
reg=$HOST_IP:5000 mirror=$HOST_IP:5001
makes "registry mirror" "" "" "$reg/library/hello:1 hello:1"
export DOCKER_CONFIG=$DATA/config # not where your own logins are kept

title "Who may come in"
run "mkdir -p $DATA/auth"
# made by: htpasswd -Bbn zzyy 123456
# shellcheck disable=SC2016
line='zzyy:$2y$05$BLCeMj2lfYwp0jezEuznOeJvIwtRpv6KLvKE1zyaKLRWLz69.rhwq'
run "echo '$line' >$DATA/auth/htpasswd"
run "$DOCKER run -d -p 5000:5000 -v $DATA/auth:/auth -v $DATA/registry:/var/lib/registry -e REGISTRY_AUTH=htpasswd -e REGISTRY_AUTH_HTPASSWD_PATH=/auth/htpasswd --name registry registry"
becomes "401" "curl -s -o /dev/null -w '%{http_code}' http://$reg/v2/"
configure "{\"insecure-registries\": [\"$reg\"]}" "$reg"
run "$DOCKER tag busybox $reg/library/hello:1"
fails "no basic auth credentials" "$DOCKER push $reg/library/hello:1"
fails "unauthorized" "echo wrong | $DOCKER login -u zzyy --password-stdin $reg"
shows "Login Succeeded" "echo 123456 | $DOCKER login -u zzyy --password-stdin $reg"
shows "1: digest: sha256:" "$DOCKER push $reg/library/hello:1"
shows '{"repositories":["library/hello"]}' "curl -s -u zzyy:123456 http://$reg/v2/_catalog"
shows "Removing login credentials" "$DOCKER logout $reg"
fails "no basic auth credentials" "$DOCKER push $reg/library/hello:1"

title "A mirror: what is pulled comes through it"
run "$DOCKER run -d -p 5001:5000 -v $DATA/mirror:/var/lib/registry -e REGISTRY_PROXY_REMOTEURL=http://$reg -e REGISTRY_PROXY_USERNAME=zzyy -e REGISTRY_PROXY_PASSWORD=123456 --name mirror registry"
becomes "200" "curl -s -o /dev/null -w '%{http_code}' http://$mirror/v2/"
configure "{\"insecure-registries\": [\"$reg\", \"$mirror\"], \"registry-mirrors\": [\"http://$mirror\"]}" "http://$mirror"
shows "http://$mirror/" "$DOCKER info --format '{{.RegistryConfig.Mirrors}}'"
run "$DOCKER rmi $reg/library/hello:1"
shows "Status: Downloaded newer image for hello:1" "$DOCKER pull hello:1"
shows "it works" "$DOCKER run --rm hello:1 echo it works"

title "It has it now, also when the registry behind it is gone"
run "$DOCKER rmi hello:1"
run "$DOCKER rm -f registry"
shows "Status: Downloaded newer image for hello:1" "$DOCKER pull hello:1"
