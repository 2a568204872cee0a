# Words and exit codes of what goes wrong before an engine is asked, and after.
d run
d run --foo x
d run -x y
d foo
d ps x
d container foo
d rm
d --foo
d run --network none busybox nosuch
d run --network none busybox /tmp
d run --network none -w relative busybox true
d run --rm -m 1 busybox true
d run --name 'a b' busybox
d start nope
d start nope nope2
d stop nope nope2
d kill nope
d rm nope
d rm -f nope
d inspect nope
d inspect nope nope2
d container inspect nope
d image inspect nope
d inspect -f '{{.Id}}' nope
d inspect --type image nope
d inspect --type foo x
d logs nope
d attach nope
d exec nope ls
d exec -it nope ls
d exec
d wait nope
d rmi nope
d rmi -f nope
d tag nope x
d tag a
d tag a b c
d ps --filter foo=bar
d ps --filter foo
d ps --format '{{.Nope}}'
d ps --format '{{'
d images a b
d stop -t x foo
d run --restart foo busybox
d run --restart on-failure:x busybox
d run -d --rm --restart always busybox
d run -e busybox
d run -e =x busybox
d run --env-file /nope busybox
d run --label-file /nope busybox
d run -l =x busybox
d run -v '' busybox
d run -v a:b:c:d busybox
d run -v :/x busybox
d run -it busybox true
d run -d -a stdout busybox
d run --ulimit foo busybox
d run --ulimit nofile=5:1 busybox
d run --ulimit nope=5 busybox
d run --memory foo busybox
d run --cpus foo busybox
d run --cpus 0.00000000001 busybox
d run --pid foo busybox
d run --ipc foo busybox
d run --uts foo busybox
d run --userns foo busybox
d run --cgroupns foo busybox
d run --device foo busybox
d run --device /a:/b:x busybox
d run --device /a:b busybox
d run --device-cgroup-rule foo busybox
d run --sysctl foo busybox
d run --security-opt foo busybox
d run --security-opt seccomp=/nope busybox
d run --add-host foo busybox
d run --add-host foo:bar busybox
d run --pull foo busybox
d run --stop-signal foo busybox
d run --log-opt foo busybox
d run --log-driver none --log-opt a=b busybox
d run --storage-opt foo busybox
d run -u nope --network none busybox
d run BusyBox
d run 'busy box'
d run --pull never nope
d run --tmpfs foo --network none busybox true
d run --shm-size foo busybox
d run -c foo busybox
d run --attach foo busybox
d run --memory-swappiness 200 --network none busybox
d run --expose foo busybox
d run --entrypoint "" --network none busybox
d run --mac-address foo busybox
d run --dns foo busybox
d run --health-cmd x --no-healthcheck busybox
d run --health-interval=-1s busybox
d run --blkio-weight-device foo busybox
d run --device-read-bps foo busybox
d run --device-read-bps /dev/sda:x busybox
d run --device-read-iops /dev/sda:x busybox
d run --network name=x,foo=bar busybox
d run --network host --network-alias x busybox
d run --network a --network host busybox
d run --link a:b:c busybox
d events --filter foo
d events --format '{{'
d load -i /nope
d kill -s FOO nope
d version --format '{{.Foo}}'
d info --format '{{.Foo}}'
d -H unix:///nope ps
d -H tcp://127.0.0.1:1 ps
d -H foo://x ps
d help foo
d image foo
d logs --since foo busybox
d run --privileged=foo busybox
d run --oom-score-adj x busybox
echo hi >cid; d run --cidfile cid busybox
printf 'A B=c\n' >env; d run --env-file env busybox
printf '=c\n' >env; d run --env-file env busybox
