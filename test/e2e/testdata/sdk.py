"""What a Python program does with Docker's SDK, line by line; run against any engine by DOCKER_HOST."""
import io
import sys
import threading
import time

import docker

client = docker.from_env()
assert client.ping()
version = client.version()
assert version["ApiVersion"], version
assert client.info()["ServerVersion"]

none = dict(network_mode="none")
assert client.containers.run("busybox", ["echo", "hello"], remove=True, **none) == b"hello\n"

try:
    client.containers.run("busybox", ["sh", "-c", "echo oops >&2; exit 3"], remove=True, **none)
    raise SystemExit("an exit status of 3 went unnoticed")
except docker.errors.ContainerError as e:
    assert e.exit_status == 3 and b"oops" in e.stderr, e

try:
    client.containers.get("nosuch")
    raise SystemExit("found a container that does not exist")
except docker.errors.NotFound as e:
    assert "No such container" in str(e), e

seen = []
events = client.events(decode=True, filters={"label": "sdk=1"})
listener = threading.Thread(target=lambda: seen.extend(e["Action"] for e in events), daemon=True)
listener.start()

c = client.containers.run("busybox", ["sh", "-c", "echo one; echo two >&2; read x; echo got $x"], detach=True,
                          stdin_open=True, labels={"sdk": "1"}, name="sdk", environment={"A": "b"},
                          mem_limit="64m", volumes={"/tmp": {"bind": "/t", "mode": "ro"}}, **none)
try:
    assert c.status in ("created", "running")
    c.reload()
    assert c.status == "running" and c.name == "sdk", c.attrs
    assert c.attrs["HostConfig"]["Memory"] == 64 << 20
    assert [x.name for x in client.containers.list(filters={"label": "sdk=1"})] == ["sdk"]
    code, out = c.exec_run(["sh", "-c", "echo $A; exit 5"])
    assert (code, out) == (5, b"b\n"), (code, out)
    code, (out, err) = c.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
    assert (code, out, err) == (0, b"o\n", b"e\n"), (code, out, err)
    ours = any(x["Name"] == "supervisor" for x in version["Components"])
    for tries in range(1 if ours else 50):  # Docker now and then loses what a program on a terminal prints right before its end
        out = c.exec_run(["tty"], tty=True)[1]
        if b"/dev/pts/" in out:
            break
    else:
        raise AssertionError(out)
    sock = c.attach_socket(params={"stdin": 1, "stream": 1})
    sock._sock.sendall(b"input\n")
    assert c.wait()["StatusCode"] == 0
    sock.close()
    assert c.logs(stdout=True, stderr=False) == b"one\ngot input\n", c.logs()
    assert c.logs(stdout=False, stderr=True) == b"two\n"
    assert c.logs(tail=1, stderr=False) == b"got input\n"
    assert b"".join(c.logs(stream=True, stderr=False)) == b"one\ngot input\n"
    c.restart(timeout=0)
    c.kill()
    assert c.wait(condition="not-running")["StatusCode"] == 137
finally:
    c.remove(force=True)

image = client.images.get("busybox")
assert "busybox:latest" in image.tags and image.id.startswith("sha256:")
assert image.tag("sdk/test", tag="v1")
assert "sdk/test:v1" in [t for i in client.images.list() for t in i.tags]
client.images.remove("sdk/test:v1")
with open(sys.argv[1], "rb") as f:
    loaded = client.images.load(f)
assert loaded[0].id == image.id, loaded

deadline = time.time() + 60  # they come when they come
while "destroy" not in seen and time.time() < deadline:
    time.sleep(0.01)
events.close()
for action in ("create", "attach", "start", "exec_start: sh -c echo $A; exit 5", "die", "restart", "kill", "destroy"):
    assert action in seen, (action, seen)
print("ok")
