# A container's life.
d run --rm --network none busybox echo hi
d run --rm --network none busybox sh -c 'echo out; echo err >&2; exit 3'
echo stdin | d run --rm -i --network none busybox cat
d run --rm --network none busybox sh -c 'kill -9 $$'
d run --rm --network none -e A=b -e FROM_CALLER -e NOT_THERE busybox sh -c 'echo $A $FROM_CALLER $NOT_THERE'
printf '# comment\n\nX=1\nFROM_CALLER\n  Y=2 3 \nNOT_THERE\n' >env
d run --rm --network none --env-file env -e X=9 busybox sh -c 'echo $X $FROM_CALLER "$Y"'
d run --rm --network none -h box -w /tmp -u 0:0 --entrypoint sh busybox -c 'hostname; pwd; id'
d run --rm --network none --name life --cidfile cid busybox true
d run -d --network none --name life --label a=b --label c busybox sh -c 'echo one; sleep 0.1; trap "exit 5" TERM; echo two >&2; while :; do sleep 0.1; done'
until docker logs life 2>&1 | grep -q two; do :; done
d ps --no-trunc --format '{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Labels}} {{.Label "a"}} {{.Ports}} {{.Size}} {{.Mounts}} {{.LocalVolumes}} {{.Networks}}'
d ps
d ps -q
d ps -aq --no-trunc
d ps -n 1 -s
d ps -l --format table
d ps --format 'table {{.ID}}\t{{.Names}}\t{{.Label "com.some-thing"}}'
d ps --format '{{json .Names}} {{upper .Image}} {{lower "ABC"}} {{title "a b"}} {{join (split .Image "s") "/"}} {{truncate .Image 3}} {{pad .Names 1 2}}|{{println "x" 1}}'
d ps --filter name=life --filter status=running -q
d ps --filter name=nope
d container ls
d container list -q
d container ps -q
d exec life echo x
d exec life sh -c 'exit 7'
d exec life nosuch
d exec life /tmp
echo foo | d exec -i life cat
d exec -e A=1 -w /tmp -u 0 life sh -c 'echo $A; pwd'
d exec -d life true
d logs life
d logs --tail 1 life
d logs -t life
d logs --details life
d logs --since 1h life
d logs --until 1h life
d inspect -f '{{.Name}} {{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.NetworkSettings.IPAddress}} {{.Config.Image}} {{.HostConfig.NetworkMode}}' life
d inspect -f '{{json .Config.Labels}} {{index .Config.Labels "a"}} {{len .Config.Env}} {{if eq .State.ExitCode 0}}zero{{end}}' life
d inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}}{{end}} {{.HostConfig.PidsLimit}} {{.Mounts}} {{.Path}} {{.Args}}' life
d inspect -f '{{.Nope}}' life
d inspect -f '{{' life
d inspect -f '{{.Name}}' life nope
d inspect --type container -f '{{.Name}}' life
d inspect --type image life
d container inspect -f '{{.Name}}' life
docker inspect life >out; grep -c . out; head -c 30 out | head -n 1
docker inspect life busybox | grep -E '^ {0,8}\S' | grep -v Date
d start life
d rm life
d kill -s USR2 life
d kill -s TERM life
d wait life
d stop life
d ps -a --filter name=life --format '{{.Status}}'
d start -a life &
# It must be there, and attached to, and set its trap, which is what it does behind its second word.
until [ "$(docker logs life 2>&1 | grep -c two)" = 2 ]; do sleep 0.1; done; docker stop life >/dev/null; wait
d restart -t 0 life
d stop -t 0 life
d rm -f life nope
d create --network none --name life busybox echo created
d start -a life
d logs life
d attach life
d rm -v life
d wait nope
d run --rm --network none --restart no -p 8080:80 -p 127.0.0.1:9:9/udp --expose 5-6 -m 64m --cpus 1.5 --memory-swap -1 --shm-size 1m busybox true
d create --name life --network host -p 8080:80 -p 127.0.0.1:90-91:90-91/udp --expose 5-6/tcp -m 64m --cpus 1.5 --memory-swap -1 --shm-size 1m --ulimit nofile=1:2 --sysctl net.core.somaxconn=5 --tmpfs /t:size=1m --mount type=bind,src=/etc,dst=/e,readonly -v /etc:/f:ro -v /anon --cap-add all --cap-drop KILL --device /dev/null:/dev/nul:r --add-host a:1.2.3.4 --add-host b=::1 --dns 1.1.1.1 --group-add 5 --init --stop-signal 9 --stop-timeout 3 --health-cmd x --health-interval 5s --log-opt max-size=1m --security-opt no-new-privileges --oom-score-adj 5 --pids-limit 5 --read-only --restart on-failure:3 --userns host --uts host --pid host --ipc host --device-cgroup-rule 'c 1:3 r' --cpuset-cpus 0 --cpu-shares 5 --blkio-weight 0 --hostname= --domainname dom --link-local-ip 169.254.1.1 busybox
docker inspect life | grep -vE '"(Id|Created|StartedAt|FinishedAt|[A-Za-z]*Path|LowerDir|MergedDir|UpperDir|WorkDir|Name|Source|Hostname|NetworkID|Image|SandboxID|SandboxKey)": |<ID>|[0-9a-f]{64}' | sort
d rm -fv life
