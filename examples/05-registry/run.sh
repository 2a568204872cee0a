#!/bin/bash
# A private registry: run, push, remove, pull. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
# shellcheck source=/dev/null
. "$(dirname "$0")/daemon-json.sh"
reg=$HOST_IP:5000
makes "registry myubuntu" "" "" "zzyyubuntu:1.2 $reg/zzyyubuntu:1.2"

title "Run it"
run "$DOCKER run -d -p 5000:5000 -v $DATA/myregistry:/var/lib/registry --privileged=true --name registry registry"
becomes '{"repositories":[]}' "curl -s -XGET http://$reg/v2/_catalog"

title "An image of our own"
run "$DOCKER run --name myubuntu ubuntu bash -c 'echo v1.2 >/version'"
run "$DOCKER commit -m='a version' -a='zzyy' myubuntu zzyyubuntu:1.2"
run "$DOCKER tag zzyyubuntu:1.2 $reg/zzyyubuntu:1.2"

title "Engines want HTTPS"
fails "server gave HTTP response to HTTPS client" "$DOCKER push $reg/zzyyubuntu:1.2"
configure "{\"insecure-registries\": [\"$reg\"]}" "$reg"
shows "1.2: digest: sha256:" "$DOCKER push $reg/zzyyubuntu:1.2"
shows '{"repositories":["zzyyubuntu"]}' "curl -s -XGET http://$reg/v2/_catalog"
shows '"tags":["1.2"]' "curl -s http://$reg/v2/zzyyubuntu/tags/list"

title "Remove it here, and get it back"
run "$DOCKER rm myubuntu"
run "$DOCKER rmi zzyyubuntu:1.2 $reg/zzyyubuntu:1.2"
hides "zzyyubuntu" "$DOCKER images --format '{{.Repository}}'"
shows "Already exists" "$DOCKER pull $reg/zzyyubuntu:1.2"
shows "v1.2" "$DOCKER run --rm $reg/zzyyubuntu:1.2 cat /version"

title "The registry's data is on the host"
run "$DOCKER rm -f registry"
run "$DOCKER run -d -p 5000:5000 -v $DATA/myregistry:/var/lib/registry --privileged=true --name registry registry"
becomes '{"repositories":["zzyyubuntu"]}' "curl -s -XGET http://$reg/v2/_catalog"
