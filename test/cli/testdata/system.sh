# The engine.
d version --format '{{.Server.Version}} {{.Server.APIVersion}} {{.Client.APIVersion}} {{.Client.Context}}'
d info --format '{{.Driver}} {{.ID}} {{.NCPU}} {{.CgroupVersion}} {{json .SecurityOptions}}'
docker info 2>/dev/null | sed 1,/Server:/d | grep -v Runtimes:
d system info --format '{{.OSType}}'
docker version | sed '1,/Server:/d'
begin=$(date +%s)
sleep 1.1
docker run --rm --network none --name ev busybox true
sleep 1.1
docker events --since $begin --until 0s --filter container=ev
docker system events --since $begin --until 0s --filter container=ev --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}'
docker events --since $begin --until 0s --filter container=ev --filter event=die --format '{{json .Actor.Attributes}}'
d events --since x
d system
d events --format '{{.Nope}}'
