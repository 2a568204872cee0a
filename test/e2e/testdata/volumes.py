"""What a Python program does with volumes by Docker's SDK; run against any engine by DOCKER_HOST."""
import docker
from docker.types import Mount

client = docker.from_env()
none = dict(network_mode="none", remove=True)

v = client.volumes.create("pyvol", driver="local", labels={"sdk": "1"})
assert v.name == "pyvol" and v.attrs["Driver"] == "local" and v.attrs["Labels"] == {"sdk": "1"}, v.attrs
assert v.attrs["Mountpoint"].endswith("/pyvol/_data") and v.attrs["Scope"] == "local" and v.attrs["CreatedAt"], v.attrs
assert [x.name for x in client.volumes.list(filters={"label": "sdk=1"})] == ["pyvol"]
assert client.volumes.get("pyvol").id == "pyvol"

client.containers.run("busybox", ["sh", "-c", "echo kept > /data/f"], volumes={"pyvol": {"bind": "/data", "mode": "rw"}}, **none)
assert client.containers.run("busybox", ["cat", "/data/f"], volumes={"pyvol": {"bind": "/data", "mode": "ro"}}, **none) == b"kept\n"
assert client.containers.run("busybox", ["cat", "/m/f"], mounts=[Mount("/m", "pyvol", read_only=True)], **none) == b"kept\n"
assert client.containers.run("busybox", ["sh", "-c", "df -k /t | tail -1 | awk '{print $2}'"], mounts=[Mount("/t", None, type="tmpfs", tmpfs_size=1 << 20)], **none) == b"1024\n"

c = client.containers.create("busybox", "true", network_mode="none", name="pyvolc", volumes={"pyvol": {"bind": "/data"}, "/tmp": {"bind": "/host", "mode": "ro"}})
c.reload()
mounts = {m["Destination"]: m for m in c.attrs["Mounts"]}
assert mounts["/data"]["Type"] == "volume" and mounts["/data"]["Name"] == "pyvol" and mounts["/data"]["RW"], mounts
assert mounts["/host"]["Type"] == "bind" and mounts["/host"]["Source"] == "/tmp" and not mounts["/host"]["RW"], mounts
try:
    v.remove()
    raise SystemExit("a volume in use was removed")
except docker.errors.APIError as e:
    assert e.status_code == 409 and "volume is in use" in str(e) and c.id in str(e), e
for x in client.df().get("Volumes", []):  # not in the API any more, from 1.53 on
    if x["Name"] == "pyvol":
        assert x["UsageData"] == {"Size": 5, "RefCount": 1}, x
c.remove()
v.remove()
try:
    client.volumes.get("pyvol")
    raise SystemExit("found a volume that was removed")
except docker.errors.NotFound as e:
    assert "pyvol" in str(e), e
assert "VolumesDeleted" in client.volumes.prune(filters={"label": "sdk=1"})
print("ok")
