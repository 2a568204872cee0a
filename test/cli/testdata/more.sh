# Less common ways.
docker run --network none nope:1 true >out 2>err; echo "code $?"; head -n 1 err; tail -n 1 err
docker create --network none nope >out 2>err; echo "code $?"; head -n 1 err; tail -n 1 err
docker run -q --network none nope:1 true >out 2>err; echo "code $?"; grep -c Unable err
d run --rm --network none -a stdout busybox sh -c 'echo out; echo err >&2'
d run --rm --network none -a stderr busybox sh -c 'echo out; echo err >&2; exit 2'
echo hi | d run --rm --network none -a stdin -a stdout -i busybox cat
echo hi | d run --rm --network none -a stdin busybox cat
d run --rm --network none busybox sh -c 'exec nosuch'
d run --rm --network none --name more nosuch 2>/dev/null
d run --rm --network none --name more busybox nosuch
d ps -a --filter name=more
d run -d --network none --name more busybox sleep 1000
d run -d --network none --name more busybox sleep 1000
docker run -d --network none --name more1 busybox sleep 1000 >/dev/null
d ps --format json --filter name=more1
d ps --format '{{json .}}' --no-trunc --filter name=more1
d ps --format 'table {{.Names}}\t{{.Status}}' --filter name=more1
d ps --format 'table' -q --filter name=more1
d ps --format raw --filter name=more1
d ps -s --format '{{.Size}}' --filter name=more1
d ps --last 1 --quiet
d rm more more1
d kill more nope more1
d wait more more1 nope
d start more nope more1
d start -a more more1
d start -i nope
d stop -t 0 more more1
d stop --time 0 more
d restart --timeout 0 more nope
d exec --privileged -u nosuch more true
d exec -w /nosuch more true
d exec -e =x more true
d exec --env-file /nope more true
printf 'A=1\nFROM_CALLER\n' >env
d exec --env-file env -e B=2 more sh -c 'echo $A $B $FROM_CALLER'
d exec -i more sh -c 'cat; exit 3' </dev/null
d attach --no-stdin nope
d logs nope -f
d logs --tail x more
d inspect -s -f '{{.SizeRw}}' more
d inspect none -f '{{.Name}} {{.Driver}} {{.Scope}}'
d inspect --type network nope
d inspect --type volume nope
d inspect --type= x
d inspect -f '{{json .State.Running}} {{.State.Status}}' nope more
d inspect -f json nope
docker inspect -f json more | head -c 7; echo
docker inspect more more1 | grep -E '^    "Name|^ {4}[{}]|^[][]'
d container rm -f more more1
d container rm more
printf 'x y' >env; d run --env-file env busybox true
printf '%s=\n' A B >labels; d create --name more --network none --label-file labels -l A=1 -l B busybox
d inspect -f '{{.Config.Labels}}' more
docker inspect -f '{{.Config.StopTimeout}} {{.Config.OpenStdin}} {{.Config.StdinOnce}} {{.Config.AttachStdin}} {{.Config.AttachStdout}} {{.HostConfig.AutoRemove}} {{.HostConfig.Init}} {{.HostConfig.MemorySwappiness}} {{.HostConfig.RestartPolicy}} {{.HostConfig.LogConfig}}' more
d rm more
mkdir -p .docker; echo '{"psFormat":"table {{.Names}}","imagesFormat":"{{.Repository}}"}' >.docker/config.json
d ps
d ps -q
d images
d images --format '{{.Tag}}'
echo '{"psFormat":' >.docker/config.json
docker ps -q 2>err; grep -c 'WARNING: Error loading config file' err; rm .docker/config.json
d --log-level debug --config /nowhere ps -q
d -D ps -q
d images -aq --no-trunc
d container run --rm --network none busybox true
d system foo
d -v extra >/dev/null
d run --help >/dev/null
d ps -h >/dev/null
d help ps >/dev/null
d run -itd --rm --network none --name more busybox
d attach --sig-proxy=x more
docker attach more </dev/null 2>&1
d stop -t 0 more
d logs -n 5 --follow nope
docker run -d --rm --network none --name more2 busybox sh -c 'echo begin; until [ -e /go ]; do sleep 0.1; done; echo end; exit 4' >/dev/null
d logs -f more2 &
until grep -q begin out; do sleep 0.1; done; docker exec more2 touch /go; wait
d run --rm --network container:nope busybox true
d run --rm --network nosuchnet busybox true
d run --rm --ipc container:nope --network none busybox true
d run --rm --volumes-from nope --network none busybox true
d run --rm --runtime nope --network none busybox true
d run --rm --user 1:2 --group-add 3 --network none busybox id
d run --rm --network none --tmpfs /t:size=64k busybox df -k /t
d run --rm --network none --read-only busybox touch /x
d run --rm --network none --add-host a.b:1.2.3.4 busybox grep a.b /etc/hosts
d run --rm --network none -v "$WORK:/w:ro" busybox touch /w/x
d run --rm --network none -v ./sub:/w busybox true
d run --rm --network none --mount type=bind,src="$WORK",dst=/w busybox ls -d /w
d run --rm --network none --ulimit nofile=77:88 busybox sh -c 'ulimit -n; ulimit -Hn'
d run --rm --network none --cap-drop ALL --cap-add chown busybox grep CapEff /proc/self/status
d run --rm --network none --sysctl kernel.msgmax=1000 busybox cat /proc/sys/kernel/msgmax
d run --rm --network none --device /dev/null:/dev/zz:r busybox sh -c 'ls -l /dev/zz | cut -c1-40'
