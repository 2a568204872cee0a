//go:build e2e

package e2e

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gantry/test/engine"
)

// networkSessions ask in the engine's own network namespace ("nsenter -t $ENGINE -n") what a host would see.
var networkSessions = []session{
	{"networks by themselves", []string{
		"docker network ls --format '{{.Name}} {{.Driver}} {{.Scope}} {{.IPv6}} {{.Internal}}'",
		"docker network create n1 | wc -c",
		"docker network create n1",
		"docker network create --subnet 10.77.0.0/16 --gateway 10.77.0.9 --ip-range 10.77.5.0/24 --aux-address h=10.77.5.1 --label a=b -o com.docker.network.bridge.name=br77 n2 >/dev/null",
		"docker network inspect n2 -f '{{json .IPAM}} {{json .Options}} {{json .Labels}} {{.Internal}} {{.Attachable}} {{.Ingress}} {{.EnableIPv6}} {{.Scope}} {{.Driver}} {{json .Containers}} {{.ConfigOnly}}'",
		"nsenter -t $ENGINE -n ip -br addr show br77 | tr -s ' ' | cut -d' ' -f1,3",
		"docker network create --subnet 10.77.1.0/24 n3",
		"~docker network create --subnet 10.0.0.0/33 n3",
		"docker network create --gateway 10.1.1.1 n3",
		"docker network create --ip-range 10.1.1.0/25 n3",
		"docker network create --subnet 10.79.0.0/24 --gateway 10.80.0.1 n3",
		"~docker network create --subnet 10.79.0.0/24 --ip-range 10.80.0.0/24 n3",
		"docker network create --subnet 10.79.0.0/24 --subnet 10.79.0.0/25 n3",
		"docker network create --driver nosuch n3",
		"docker network create --driver host n3",
		"docker network create --driver null n3",
		"docker network create bridge; docker network create host; docker network create none; docker network create default",
		"~docker network create ''",
		"~docker network create --opt com.docker.network.bridge.name=br77 n3",
		"docker network create --opt com.docker.network.bridge.enable_icc=perhaps n3",
		"~docker network create --opt com.docker.network.driver.mtu=tiny n3",
		"docker network ls -q | wc -l",
		"docker network ls --filter driver=bridge --format '{{.Name}}'", "docker network ls --filter type=custom --format '{{.Name}}'",
		"docker network ls --filter type=builtin --format '{{.Name}}'", "docker network ls --filter label=a --format '{{.Name}} {{.Labels}}'",
		"docker network ls --filter name=n --format '{{.Name}}'", "docker network ls --filter scope=local --format '{{.Name}}'",
		"docker network ls --filter 'name=^n[12]$' --format '{{.Name}}'", "docker network ls --filter name=^n --filter name=host --format '{{.Name}}'", "docker network ls --filter 'name=[' -q",
		"docker network ls --filter dangling=true --format '{{.Name}}'", "docker network ls --filter nosuch=1", "docker network ls --filter type=nosuch",
		"docker network inspect nosuch", "docker network inspect n1 nosuch -f '{{.Name}}'",
		"docker network rm nosuch", "docker network rm bridge", "docker network rm host none",
		"docker network rm n1 nosuch n2", "docker network ls --filter type=custom -q",
		"docker network create lone >/dev/null; docker network prune -f; docker network prune -f",
		"docker network create --label keep=1 lone >/dev/null; docker network prune -f --filter label!=keep; docker network prune -f --filter label=keep",
		"docker network prune -f --filter nosuch=1",
	}},
	{"containers in networks", []string{
		"docker network create --subnet 10.81.0.0/24 na >/dev/null; docker network create --subnet 10.82.0.0/24 nb >/dev/null",
		"docker run -d --name ca --network na --ip 10.81.0.50 --network-alias web --mac-address 02:42:0a:51:00:99 --hostname hosta busybox sleep 1000 | wc -c",
		"docker run -d --name cb --network na busybox sleep 1000 | wc -c",
		"docker inspect ca -f '{{range $k,$v := .NetworkSettings.Networks}}{{$k}} {{$v.IPAddress}}/{{$v.IPPrefixLen}} {{$v.Gateway}} {{$v.MacAddress}} {{json $v.IPAMConfig}} {{json $v.Links}} {{json $v.DriverOpts}} {{len $v.EndpointID}} {{len $v.NetworkID}} {{$v.GlobalIPv6Address}}{{end}} {{json .NetworkSettings.Ports}} {{.NetworkSettings.IPAddress}} {{.HostConfig.NetworkMode}}'",
		"docker network inspect na -f '{{range .Containers}}{{.Name}} {{.MacAddress}} {{.IPv4Address}} {{.IPv6Address}};{{end}}' | tr ';' '\\n' | sort",
		"docker exec cb ping -c1 -W5 ca | head -1; docker exec cb ping -c1 -W5 web | head -1; docker exec cb ping -c1 -W5 ca.na | head -1; docker exec cb ping -c1 -W5 10.81.0.50 | tail -2 | head -1",
		"docker exec cb ping -c1 -W5 hosta | head -1; docker exec cb nslookup nosuchname 127.0.0.11 >/dev/null; echo $?",
		"docker exec ca cat /etc/hosts; docker exec ca grep -v '^#' /etc/resolv.conf",
		"docker exec ca ip route; docker exec ca ip -o link show eth0 | grep -o 'mtu [0-9]*'; docker exec ca cat /sys/class/net/eth0/address",
		"docker network connect nb cb; docker exec cb ip -o -4 addr show eth1 | tr -s ' ' | cut -d' ' -f4; docker exec cb ip route | sort",
		"docker network connect nb cb", "docker network connect nosuch cb", "docker network connect nb nosuch",
		"~docker network connect --ip 10.99.0.1 nb ca", "docker network connect --ip 10.82.0.2 nb ca", "~docker network connect --ip nonsense nb ca",
		"docker network connect --alias other --ip 10.82.0.77 nb ca; docker exec cb ping -c1 -W5 10.82.0.77 | head -1; docker exec cb ping -c1 -W5 other | head -1",
		"~docker network rm na", "~docker network rm nb",
		"docker network disconnect nb ca; docker exec ca ip -o link | wc -l; docker exec cb ping -c1 -W5 ca | head -1",
		"docker network disconnect nb ca", "docker network disconnect nb nosuch", "docker network disconnect nosuch ca", "docker network disconnect host ca", "docker network disconnect bridge ca",
		"docker network disconnect -f nb cb; docker inspect cb -f '{{len .NetworkSettings.Networks}}'",
		"docker network connect host ca", "docker network connect none ca",
		"docker run --rm --network na --ip 10.81.0.50 busybox true 2>&1 | grep -o 'Address already in use'", "~docker run --rm --network na --ip 10.99.0.50 busybox true",
		"!docker run --rm --ip 172.17.0.50 busybox true", "!docker run --rm --network-alias x busybox true",
		"docker run --rm --network nosuch busybox true 2>&1 | grep -o 'network nosuch not found'", "docker run --rm --network host -p 80:80 busybox true",
		"docker run --rm --network host --hostname h busybox hostname", "docker run --rm --network none --network-alias a busybox true",
		"docker run --rm --network na --mac-address nonsense busybox true",
		"docker run --rm --network container:ca busybox ip -o -4 addr show eth0 | tr -s ' ' | cut -d' ' -f4",
		"docker run --rm --network container:ca busybox hostname", "docker run --rm --network container:ca --hostname x busybox true",
		"docker run --rm --network container:ca -p 1:1 busybox true", "docker run --rm --network container:ca --dns 1.1.1.1 busybox true",
		"docker run --rm --network container:ca --add-host a:1.1.1.1 busybox true", "docker run --rm --network container:ca --mac-address 02:42:0a:51:00:98 busybox true",
		"docker create --name cc --network na busybox sleep 1000 >/dev/null; docker network connect nb cc; docker network inspect nb -f '{{len .Containers}}'; docker start cc; docker exec cc ip -o -4 addr show eth0 | tr -s ' ' | cut -d' ' -f4 | sort",
		// Docker says that a container has stopped before its networks are let go; an inspect waits for that.
		"docker stop -t 0 cc; docker inspect cc >/dev/null; docker network rm nb; docker start cc; docker network ls -q --filter name=nb | wc -l",
		"docker rm -f cc", "docker restart -t 0 ca; docker inspect ca -f '{{.NetworkSettings.Networks.na.IPAddress}}'; docker exec cb ping -c1 -W5 ca | head -1",
		"docker rename ca newname; docker exec cb ping -c1 -W5 newname | head -1; docker exec cb ping -c1 -W5 ca 2>&1 | tail -1",
		"docker ps --filter network=na --format '{{.Names}} {{.Networks}}'", "docker rm -f newname cb; docker network rm na nb",
	}},
	{"options and endpoints", []string{
		"docker network create --subnet 10.83.0.0/24 -o com.docker.network.driver.mtu=1300 -o com.docker.network.bridge.host_binding_ipv4=127.0.0.2 -o com.docker.network.bridge.enable_ip_masquerade=false -o com.docker.network.container_iface_prefix=net -o com.docker.network.bridge.nosuch=1 no >/dev/null; docker network inspect no -f '{{json .Options}}'",
		"docker run -d --name oa --network no --link-local-ip 169.254.9.9 -p 8090:80 busybox sleep 1000 >/dev/null; docker exec oa ip -o addr show net0 | grep -E 'inet (10|169)' | tr -s ' ' | cut -d' ' -f4 | sort; docker exec oa cat /sys/class/net/net0/mtu; docker port oa",
		"docker inspect oa -f '{{with .NetworkSettings.Networks.no}}{{json .IPAMConfig}} {{.IPAddress}}{{end}}'; docker rm -f oa; docker network rm no",
		"docker network create -o com.docker.network.bridge.enable_ip_masquerade=perhaps nx", "docker network create -o com.docker.network.bridge.inhibit_ipv4=perhaps nx",
		"docker network create -o com.docker.network.driver.mtu=tiny nx", "docker network create -o com.docker.network.bridge.host_binding_ipv4=here nx",
		"docker network create --subnet 10.84.0.0/24 -o com.docker.network.bridge.inhibit_ipv4=true -o com.docker.network.bridge.name=brinh ni >/dev/null; nsenter -t $ENGINE -n ip -o -4 addr show brinh | wc -l; docker network rm ni",
	}},
	{"dns, hosts and the default bridge", []string{
		"docker run --rm busybox ip -o -4 addr show eth0 | tr -s ' ' | cut -d' ' -f4", "docker run --rm busybox ip route", "docker run --rm busybox cat /sys/class/net/eth0/address | cut -c1-14",
		"docker run --rm -h aa.bb.cc busybox sh -c 'hostname -f; tail -n 1 /etc/hosts | cut -f2'", "docker run --rm -h aa.bb --domainname cc busybox sh -c 'tail -n 1 /etc/hosts | cut -f2'",
		"docker run --rm -h hh --domainname dd busybox cat /etc/hosts", "docker run --rm --add-host aa:1.2.3.4 --add-host gw:host-gateway busybox grep -wE 'aa|gw' /etc/hosts",
		"docker run --rm --add-host bad busybox true", "docker run --rm --add-host bad:nonsense busybox true",
		"docker run --rm --dns 9.9.9.9 --dns-search example.org --dns-opt ndots:3 busybox sort /etc/resolv.conf", "docker run --rm --dns nonsense busybox true",
		"docker run --rm --dns-search . --dns 9.9.9.9 busybox sort /etc/resolv.conf",
		"docker network create nd >/dev/null; docker run --rm --network nd --dns 9.9.9.9 --dns-search example.org --dns-opt timeout:1 busybox sort /etc/resolv.conf; docker network rm nd",
		"docker run --rm --network none busybox cat /etc/hosts", "docker run --rm --network none busybox ip -o link | wc -l",
		"docker run -d --name d1 busybox sleep 1000 >/dev/null; docker run --rm busybox ping -c1 -W1 d1; docker inspect d1 -f '{{with .NetworkSettings.Networks.bridge}}{{.IPAddress}} {{.Gateway}} {{.IPPrefixLen}} {{.MacAddress}} {{len .EndpointID}} {{json .Aliases}}{{end}}'; docker rm -f d1",
		"docker run --rm --sysctl net.ipv4.ip_unprivileged_port_start=80 busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "docker run --rm --network host --sysctl net.ipv4.ip_forward=1 busybox true 2>&1 | grep -o 'sysctl.*namespace'",
		"docker run --rm busybox sh -c 'cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/eth0/forwarding'",
	}},
	{"ports", []string{
		"docker run -d --name p1 -p 8081:80 -p 127.0.0.1:8082:81/tcp -p 8083:82/udp -p 9000-9002:9000-9002 busybox httpd -f -p 80 >/dev/null; docker port p1 | grep -v '::' | sort",
		"docker port p1 80 | grep -v ::; docker port p1 80/tcp | grep -v ::; docker port p1 82/udp | grep -v ::; docker port p1 82; docker port p1 99; docker port nosuch; docker port p1 nonsense",
		"docker ps --filter name=p1 --format '{{.Ports}}' | tr ',' '\\n' | grep -v :: | sort",
		"docker inspect p1 -f '{{json .HostConfig.PortBindings}} {{json .Config.ExposedPorts}}'",
		"docker exec p1 sh -c 'echo page >/index.html'; for a in 127.0.0.1 172.17.0.1; do timeout 60 sh -c \"until nsenter -t $ENGINE -n curl -s --max-time 20 http://$a:8081/index.html; do :; done\"; done",
		"docker run --rm busybox wget -T 20 -qO- http://172.17.0.1:8081/index.html",
		"docker run -d --name p2 -p 8081:80 busybox sleep 1 2>&1 >/dev/null | grep -o 'Bind for .* already allocated'; docker inspect p2 -f '{{.State.Status}} {{.State.ExitCode}}'; docker rm -f p2",
		"docker run --rm -p 99999:80 busybox true", "docker run --rm -p nonsense busybox true", "docker run --rm -p 80:80/xyz busybox true", "docker run --rm -p 8000-8001:80-83 busybox true",
		"docker run --rm -p 300.1.1.1:80:80 busybox true", "docker run --rm -p 80-70:80 busybox true", "docker run --rm --expose nonsense busybox true",
		"docker run -d --name p3 -P --expose 5000 --expose 6000-6001/udp busybox sleep 1000 >/dev/null; docker port p3 | grep -v :: | sed 's/:[0-9]*$/:<port>/' | sort; docker inspect p3 -f '{{json .Config.ExposedPorts}} {{.HostConfig.PublishAllPorts}}'",
		"docker run -d --name p4 -p 80 busybox sleep 1000 >/dev/null; docker port p4 80 | grep -v :: | sed 's/:[0-9]*$/:<port>/'; docker inspect p4 -f '{{json .HostConfig.PortBindings}}'",
		"docker stop -t 0 p1; docker port p1; nsenter -t $ENGINE -n curl -s --max-time 20 http://127.0.0.1:8081/; echo $?; docker start p1; timeout 60 sh -c 'until nsenter -t $ENGINE -n curl -s --max-time 20 http://127.0.0.1:8081/index.html; do :; done'",
		"docker create --name p5 -p 8085:80 busybox true >/dev/null; docker port p5; docker inspect p5 -f '{{json .NetworkSettings.Ports}}'",
		"docker ps -a --filter publish=8081 --format '{{.Names}}'; docker ps -a --filter expose=5000 --format '{{.Names}}'", "docker rm -f p1 p3 p4 p5",
	}},
	{"bad input", []string{
		"docker network create -o nosuch=1 -o com.docker.network.bridge.nosuch=x n1 | wc -c; docker network inspect n1 -f '{{json .Options}}'; docker network rm n1",
		"docker network create --subnet 10.91.0.0/24 n1 | wc -c",
		// Overlapping: a network's, from above and from below; the default network's.
		"docker network create --subnet 10.91.0.0/16 n2", "docker network create --subnet 10.91.0.128/25 n2", "docker network create --subnet 172.17.8.0/24 n2",
		"~docker network create --subnet 10.92.0.0/24 --ip-range 10.92.1.0/24 n2", "docker network create --subnet 10.92.0.0/24 --aux-address x=10.93.0.1 n2",
		"!docker network create --subnet 10.92.0.1/24 n2", "!docker network rm n2", // newer Dockers refuse it, too
		"~docker network create --subnet nonsense n2", "docker network create --ip-range nonsense n2", "docker network create --gateway nonsense n2",
		"docker network create --subnet 10.92.0.0/24 --gateway 10.92.0.9 --aux-address x=10.92.0.9 n2",
		"!docker network create --subnet fd00:92::/64 n2", "!docker network rm n2", // the Docker of 2022 makes it, without IPv6
		"docker network create --ipam-driver nosuch n2", "docker network create --label a --label b=c n2 | wc -c; docker network inspect n2 -f '{{json .Labels}}'; docker network rm n2",
		"~docker network create a b", "~docker network create", "~docker network connect n1", "~docker network rm",
		"~docker network create -d macvlan -o parent=lo n2", "~docker network create -d macvlan -o parent=nosuch n2", "~docker network create -d macvlan -o macvlan_mode=odd n2",
		"docker run -d --name t1 --network n1 --ip 10.91.0.7 busybox sleep 1000 | wc -c",
		// Taken names, addresses and hardware addresses; those that nobody may have.
		"docker run -d --name t1 --network n1 busybox true 2>&1 | grep -o 'Conflict. The container name \"/t1\" is already in use'",
		"docker run --rm --network n1 --ip 10.91.0.7 busybox true 2>&1 | grep -o 'Address already in use'; docker run --rm --network n1 --ip 10.91.0.1 busybox true 2>&1 | grep -o 'Address already in use'",
		"~docker run --rm --network n1 --ip 10.91.0.255 busybox true", "~docker run --rm --network n1 --ip 10.91.0.0 busybox true",
		"~docker run --rm --network n1 --ip fd00::1 busybox true", "~docker run --rm --network n1 --ip6 fd00::1 busybox true", "~docker run --rm --network n1 --ip nonsense busybox true",
		"docker create --name t2 --network n1 --ip 10.91.0.7 busybox true | wc -c; docker start t2 2>&1 | grep -o 'Address already in use'; docker inspect t2 -f '{{.State.Status}} {{.State.ExitCode}}'; docker rm t2",
		"docker network rm n1 2>&1 | grep -o 'has active endpoints'; docker network ls -q --filter name=n1 | wc -l", "docker network prune -f; docker network ls -q --filter name=n1 | wc -l",
		"docker network disconnect n1 t1; docker network rm n1; docker start t1; docker exec t1 ip -o link | wc -l; docker rm -f t1",
		"docker create --name t3 --network nosuch busybox true | wc -c; docker start t3 2>&1 | grep -o 'network nosuch not found'; docker rm t3",
		"docker run --rm --network n1:n2 busybox true 2>&1 | grep -o 'network n1:n2 not found'", "~docker run --rm --network '' busybox true", "~docker run --rm --network container: busybox true",
		"~docker run --rm --network bridge --network host busybox true", "~docker run --rm --network bridge --network none busybox true",
	}},
	{"forms of -p", []string{
		"docker run -d --name f1 --stop-signal KILL -p 127.0.0.1::80 -p 127.0.0.1:9201:80 -p 9202-9205:80 -p 0.0.0.0:9206:80/tcp -p 127.0.0.1:9207-9208:9207-9208/udp -p published=9209,target=80 -p '[::1]:9210:80' busybox sh -c 'echo it >/index.html; httpd -p 80; touch /up; sleep 1000' | wc -c; timeout 60 sh -c 'until docker exec f1 test -e /up; do :; done'",
		"docker port f1 | grep -v '\\[*::\\]*:' | sed 's/127.0.0.1:[3-6][0-9]*$/127.0.0.1:<port>/; s/0:920[2-5]$/0:<range>/; s/\\[::1\\]/::1/' | sort",
		"for a in 127.0.0.1:9201 127.0.0.1:9206 172.17.0.1:9206 127.0.0.1:9209 '[::1]:9210' $(docker port f1 80/tcp | grep 127.0.0.1 | head -1); do nsenter -t $ENGINE -n curl -s --max-time 20 http://$a/index.html; done",
		"for p in 9202 9203 9204 9205; do nsenter -t $ENGINE -n curl -s --max-time 20 http://127.0.0.1:$p/index.html; done | wc -l",
		"nsenter -t $ENGINE -n curl -s --max-time 20 http://172.17.0.1:9201/; echo $?",
		"docker inspect f1 -f '{{json .HostConfig.PortBindings}}'",
		// A range that is taken in part gives the next one of it; one that is taken altogether, nothing.
		"docker run -d --name f2 -p 9202-9206:80 -p 9301-9302:81 busybox sleep 1000 2>&1 | grep -o 'already allocated'; docker rm -f f2",
		"docker run -d --name f3 -p 9301-9302:81 busybox sleep 1000 | wc -c; docker run -d --name f4 -p 9301-9302:81 busybox sleep 1000 | wc -c; (docker port f3 81; docker port f4 81) | grep -v :: | sort; docker run --rm -p 9301-9302:81 busybox true 2>&1 | grep -oE 'already allocated|all ports are allocated' | sed 's/all ports are/already/'",
		"docker rm -f f1 f3 f4",
		// Random ports stay while the container runs.
		"docker run -d --name f5 -p 80 -p 81/udp -P --expose 82 busybox sleep 1000 | wc -c; docker port f5 | sort >a; docker network create ff >/dev/null; docker network connect ff f5; docker network disconnect ff f5; docker rename f5 f6; docker port f6 | sort | diff a - && echo same; docker network rm ff; docker rm -f f6",
		"~docker run --rm -p 80:80:80:80 busybox true", "docker run --rm -p :80 busybox true", "~docker run --rm -p 80: busybox true", "docker run --rm -p 0:80 busybox true; echo $?", "~docker run --rm -p -1:80 busybox true", "~docker run --rm -p 1.2.3:80:80 busybox true",
		"docker run --rm -p 203.0.113.1:9300:80 busybox true 2>&1 | grep -o 'cannot assign requested address'", "docker run --rm -p 9300:80 -p 9300:81 busybox true 2>&1 | grep -o 'already allocated'",
		"nsenter -t $ENGINE -n busybox nc -l -p 9400 & n=$!; timeout 60 sh -c 'until nsenter -t $ENGINE -n ss -Hlnt | grep -q :9400; do :; done'; docker run --rm --name f7 -p 9400:80 busybox true 2>&1 | grep -o 'address already in use'; kill $n",
	}},
}

// networkMask takes away besides what the two call differently, and IPv6 of the host's own that only newer Dockers show.
func networkMask(s string) string {
	s = regexp.MustCompile(`\b(docker0|gantry0)\b`).ReplaceAllString(mask(s), "<bridge>")
	for _, m := range []struct{ re, to string }{
		{`Invalid filter`, "invalid filter"},
		{`failed to set up container networking: `, ""},
		{`network nb not found`, "network <id> not found"},
		{`fe00::0`, "fe00::"}, {`ff00::0`, "ff00::"},
		// A freed address is not given out again at once: who still holds it as somebody else's would be surprised.
		{`\b172\.17\.0\.([2-9]|\d\d+)\b`, "<address>"}, {`\b02:42:ac:11:00:..`, "<mac>"},
	} {
		s = regexp.MustCompile(m.re).ReplaceAllString(s, m.to)
	}
	s = regexp.MustCompile(`endpoint with name \S+ already`).ReplaceAllString(s, "endpoint with name <name> already")
	return s
}

// TestNetworksDifferential holds networks against a real dockerd with its bridge and its rules.
func TestNetworksDifferential(t *testing.T) {
	docker := engine.DockerWithNetworks(filepath.Join(scratch, "dn"))
	if err := boot(docker, "busybox"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Stop(); err != nil {
			t.Error(err)
		}
	})
	shellDifferential(t, networkSessions, ownEngine(t, "busybox"), docker, networkMask)
	if r := engine.Run(docker.StockCLI("ps", "-aq")); strings.TrimSpace(r.Out) != "" {
		t.Errorf("a session left containers: %v", r)
	}
}
