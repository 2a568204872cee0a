# What programs build with through python3-docker, with the classic builder.
import io
import os
import tarfile
import tempfile

import docker

client = docker.from_env()


def has(log, *words):
    text = "".join(line.get("stream", "") for line in log)
    for w in words:
        assert w in text, (w, text)


with tempfile.TemporaryDirectory() as dir:
    with open(os.path.join(dir, "Dockerfile"), "w") as f:
        f.write("FROM busybox AS one\nARG WHO=nobody\nRUN echo $WHO > /who\nCOPY . /ctx\nFROM one AS two\nRUN exit 5\n")
    for name in ["kept", "left", ".dockerignore"]:
        with open(os.path.join(dir, name), "w") as f:
            f.write("left\n")
    os.chmod(os.path.join(dir, "kept"), 0o751)
    args = dict(path=dir, tag="sdk:built", target="one", buildargs={"WHO": "me"}, labels={"a": "b"}, rm=True, forcerm=True, network_mode="none",
                container_limits={"memory": 64 << 20}, shmsize=32 << 20, extra_hosts={"db": "10.1.2.3"})
    image, log = client.images.build(**args)
    has(log, "Step 1/", "Step 3/", "Successfully built", "Successfully tagged sdk:built")
    assert image.tags == ["sdk:built"], image.tags
    assert image.labels == {"a": "b"}, image.labels
    out = client.containers.run("sdk:built", ["sh", "-c", "cat /who; ls -a /ctx; stat -c %a /ctx/kept"], remove=True, network_mode="none")
    assert out == b"me\n.\n..\n.dockerignore\nDockerfile\nkept\n751\n", out
    again, log = client.images.build(**args)
    has(log, "Using cache")
    assert again.id == image.id
    client.images.build(cache_from=["busybox"], **args)
    _, log = client.images.build(nocache=True, **args)
    assert not any("Using cache" in line.get("stream", "") for line in log)

    try:
        client.images.build(path=dir, network_mode="none", rm=True, forcerm=True)
        raise AssertionError("a step that fails builds")
    except docker.errors.BuildError as e:
        assert "returned a non-zero code: 5" in e.msg, e.msg
    try:
        client.images.build(path=dir, target="nosuch")
        raise AssertionError("a stage that there is not is built")
    except (docker.errors.BuildError, docker.errors.APIError) as e:
        assert "nosuch" in str(e), e

image, log = client.images.build(fileobj=io.BytesIO(b"FROM busybox\nLABEL alone=yes\n"))
assert image.labels["alone"] == "yes"
client.images.remove(image.id, force=True)

packed = io.BytesIO()
with tarfile.open(fileobj=packed, mode="w:gz") as t:
    for name, text in [("deep/Other", b"FROM busybox\nADD file /\nCMD cat /file\n"), ("file", b"of the archive\n")]:
        info = tarfile.TarInfo(name)
        info.size = len(text)
        t.addfile(info, io.BytesIO(text))
packed.seek(0)
image, log = client.images.build(fileobj=packed, custom_context=True, encoding="gzip", dockerfile="deep/Other", network_mode="none", quiet=False)
assert client.containers.run(image.id, remove=True, network_mode="none") == b"of the archive\n"
client.images.remove(image.id, force=True)
client.images.remove("sdk:built", force=True)
assert client.api.prune_builds()["SpaceReclaimed"] >= 0
print("ok")
