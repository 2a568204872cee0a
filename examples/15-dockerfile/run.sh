#!/bin/bash
# A Dockerfile: a base image with an editor, net-tools and Java. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "" "" "" "ubuntujava:1.5 draft"
export DOCKER_BUILDKIT=0 # the stock command line's own builder; gantry has one only
debs=${DEBS:-}
if [ -z "$debs" ]; then
  debs=$DATA/debs
  mkdir "$debs"
  (cd "$debs" && apt-get -qq -o APT::Sandbox::User=root download vim-tiny vim-common xxd net-tools)
fi

title "What the image is to have, beside its Dockerfile"
run "mkdir $DATA/myfile && cd $DATA/myfile"
cd "$DATA/myfile" || exit
run "cp $debs/*.deb ."
# A Java in an archive, as it is downloaded: here it comes out of the image tomcat.
run "$DOCKER run --rm tomcat tar -C /usr/lib/jvm -chz --transform s/java-17-openjdk-amd64/jdk-17/ java-17-openjdk-amd64 >jdk-17.tar.gz"

title "The Dockerfile"
cat >Dockerfile <<'END'
FROM ubuntu
MAINTAINER zzyy<zzyybs@126.com>

ENV MYPATH /usr/local
WORKDIR $MYPATH

# an editor
COPY vim-*.deb xxd*.deb /tmp/
RUN dpkg -i /tmp/vim-*.deb /tmp/xxd*.deb
# ifconfig
COPY net-tools*.deb /tmp/
RUN dpkg -i /tmp/net-tools*.deb
# Java: ADD unpacks an archive
ADD jdk-17.tar.gz /usr/local/java/
ENV JAVA_HOME /usr/local/java/jdk-17
ENV PATH $JAVA_HOME/bin:$PATH

EXPOSE 80

CMD echo $MYPATH
CMD echo "success------------ok"
CMD /bin/bash
END
shows "FROM ubuntu" "cat Dockerfile"

title "Build it, and look into it"
run "$DOCKER build -q -t ubuntujava:1.5 ."
shows "/usr/local" "$DOCKER run --rm ubuntujava:1.5 pwd"
shows "VIM - Vi IMproved" "$DOCKER run --rm ubuntujava:1.5 vim.tiny --version | head -n 1"
shows "127.0.0.1" "$DOCKER run --rm ubuntujava:1.5 ifconfig lo | grep inet"
shows "openjdk version" "$DOCKER run --rm ubuntujava:1.5 java -version"
shows '["/bin/sh","-c","/bin/bash"]' "$DOCKER image inspect -f '{{json .Config.Cmd}}' ubuntujava:1.5"
shows "80/tcp" "$DOCKER image inspect -f '{{json .Config.ExposedPorts}} {{.Author}}' ubuntujava:1.5"

title "Each instruction is a step, and known steps are not done again"
shows "ADD" "$DOCKER history --no-trunc --format '{{.CreatedBy}}' ubuntujava:1.5 | grep -o 'ADD.*java/'"
run "echo 'CMD [\"java\", \"-version\"]' >>Dockerfile"
run "$DOCKER build -q -t ubuntujava:1.5 ."
shows "openjdk version" "$DOCKER run --rm ubuntujava:1.5"

title "The image that lost its name"
shows "<none>" "$DOCKER images -f dangling=true --format '{{.Repository}} {{.Tag}}'"
shows "eleted: sha256:" "$DOCKER image prune -f"
hides "<none>" "$DOCKER images -f dangling=true --format '{{.Repository}} {{.Tag}}'"

title "A mistake"
printf 'FROM ubuntu\nRUN no-such-command\nCMD bash\n' >Dockerfile.wrong
fails "no-such-command" "$DOCKER build -q -f Dockerfile.wrong -t draft ."
