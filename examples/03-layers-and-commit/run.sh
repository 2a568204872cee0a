#!/bin/bash
# What an image is made of, and one of your own with a tool more. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "myubuntu" "" "" "zzyyubuntu:1.2"
deb=${DEBS:+$(echo "$DEBS"/net-tools_*.deb)}
if [ -z "$deb" ]; then
  (cd "$DATA" && apt-get -qq -o APT::Sandbox::User=root download net-tools)
  deb=$(echo "$DATA"/net-tools_*.deb)
fi

title "Images are layers"
shows "apt-get install nginx" "$DOCKER history --format '{{.CreatedBy}}: {{.Size}}' nginx"
run "$DOCKER image inspect -f '{{range .RootFS.Layers}}{{println .}}{{end}}' ubuntu nginx redis:6.0.8 | sort | uniq -c"

title "A container writes into a layer of its own"
run "$DOCKER run -d --name myubuntu ubuntu sleep 1000"
fails "" "$DOCKER exec myubuntu ifconfig"
run "cp $deb $DATA/net-tools.deb"
run "$DOCKER cp $DATA/net-tools.deb myubuntu:/tmp/"
shows "Setting up net-tools" "$DOCKER exec myubuntu dpkg -i /tmp/net-tools.deb"
run "$DOCKER exec myubuntu rm /tmp/net-tools.deb"
shows "127.0.0.1" "$DOCKER exec myubuntu ifconfig lo"
shows "ifconfig" "$DOCKER diff myubuntu | grep bin/"

title "commit makes an image of it"
shows "sha256:" "$DOCKER commit -m='ifconfig added' -a='zzyy' myubuntu zzyyubuntu:1.2"
shows "ifconfig added" "$DOCKER history --format '{{.Comment}}: {{.Size}}' zzyyubuntu:1.2 | head -n 1"
shows "127.0.0.1" "$DOCKER run --rm zzyyubuntu:1.2 ifconfig lo"
fails "" "$DOCKER run --rm ubuntu ifconfig lo"

title "It shares what was there"
run "$DOCKER image inspect -f '{{len .RootFS.Layers}} layers' ubuntu zzyyubuntu:1.2"
shows "zzyy" "$DOCKER image inspect -f '{{.Author}}' zzyyubuntu:1.2"
