# Images.
d images
d images -q
d images -q --no-trunc
d images --digests
d images --format '{{.Repository}} {{.Tag}} {{.Digest}} {{.CreatedSince}} {{.Containers}} {{.SharedSize}} {{.UniqueSize}}'
d images --format json --no-trunc
d images --format 'table {{.Repository}}:{{.Tag}}'
d images nope
d images busybox:latest
d images --filter dangling=true
d images --filter foo=bar
d image ls -q
d image list -q
d tag busybox some/thing:1
d tag busybox localhost:5000/x/y
d tag busybox UPPER
d tag busybox a@sha256:0000000000000000000000000000000000000000000000000000000000000000
d images --filter reference='some/*'
d inspect -f '{{.RepoTags}} {{.Config.Cmd}} {{.Os}}/{{.Architecture}} {{json .Config.Env}}' busybox
d image inspect -f '{{.RepoTags}}' busybox nope
d rmi some/thing:1 nope
d image rm localhost:5000/x/y
d image remove nope
echo garbage >x.tar
d load -i x.tar
d load -q <x.tar
: >empty; d load <empty
d run --rm --network none --platform linux/amd64 busybox true
