# What programs do with networks and ports through python3-docker. argv: a folder of the host with an index.html.
import sys
import time
import urllib.request

import docker

d = docker.from_env()


def until(what, f, seconds=60):
    end = time.time() + seconds
    while True:
        try:
            got = f()
            if got:
                return got
        except Exception as e:
            got = e
        if time.time() > end:
            raise SystemExit(f"{what}: {got!r}")
        time.sleep(0.05)


def get(url):
    with urllib.request.urlopen(url, timeout=60) as r:
        return r.read().decode()


pool = docker.types.IPAMPool(subnet="172.30.7.0/24", gateway="172.30.7.1")
net = d.networks.create("py", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[pool]), labels={"a": "b"}, check_duplicate=True)
other = d.networks.create("py2", internal=True)
assert [n.name for n in d.networks.list(filters={"label": "a=b"})] == ["py"]
assert {"bridge", "host", "none", "py", "py2"} <= {n.name for n in d.networks.list()}
net.reload()
assert net.attrs["IPAM"]["Config"][0]["Subnet"] == "172.30.7.0/24", net.attrs

web = d.containers.run(
    "nginx", detach=True, name="pyweb", network="py",
    ports={"80/tcp": [8088, ("127.0.0.1", None)], "81/udp": 8188},
    volumes={sys.argv[1]: {"bind": "/usr/share/nginx/html", "mode": "ro"}},
)
until("nginx answers", lambda: "compose" in get("http://127.0.0.1:8088/"))
web.reload()
ports = web.attrs["NetworkSettings"]["Ports"]
assert ports["81/udp"][0]["HostPort"] == "8188", ports
chosen = [p["HostPort"] for p in ports["80/tcp"] if p["HostIp"] == "127.0.0.1"]
assert len(chosen) == 1 and "compose" in get(f"http://127.0.0.1:{chosen[0]}/"), ports
assert web.attrs["NetworkSettings"]["Networks"]["py"]["IPAddress"].startswith("172.30.7.")

# By name from a sibling; and on a second network only after a live connect, until the disconnect.
def fetch(host, network):
    script = f'exec 3<>/dev/tcp/{host}/80; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3'
    return d.containers.run("nginx", ["bash", "-c", script], network=network, remove=True)


assert b"compose" in fetch("pyweb", "py")
other.connect(web, aliases=["www"], ipv4_address=None)
assert b"compose" in fetch("www", "py2")
other.reload()
assert [c.name for c in other.containers] == ["pyweb"]
try:
    other.remove()
    raise SystemExit("a network in use was removed")
except docker.errors.APIError as e:
    assert e.status_code == 403 and "active endpoints" in str(e), e
other.disconnect(web)
other.remove()
try:
    d.networks.create("py", check_duplicate=True)
    raise SystemExit("a network's name was taken twice")
except docker.errors.APIError as e:
    assert e.status_code == 409, e
try:
    d.containers.run("nginx", detach=True, name="pyweb2", ports={"80/tcp": 8088})
    raise SystemExit("a port was published twice")
except docker.errors.APIError as e:
    assert e.status_code == 500 and "port is already allocated" in str(e), e
d.containers.get("pyweb2").remove(force=True)

host = d.containers.run("busybox", ["ip", "-o", "link"], network_mode="host", remove=True)
assert b"lan0" in host, host
shared = d.containers.run("busybox", ["wget", "-q", "-O", "-", "http://127.0.0.1/"], network_mode="container:pyweb", remove=True)
assert b"compose" in shared, shared

web.remove(force=True)
assert d.networks.prune(filters={"label": ["a=b"]})["NetworksDeleted"] == ["py"]
print("ok")
