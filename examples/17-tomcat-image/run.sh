#!/bin/bash
# An image of a web application: Tomcat with a page of its own. README.md tells the story.
# shellcheck source=/dev/null
. "$(dirname "$0")/../lib.sh"
makes "web" "" "" "myweb:1.0"
export DOCKER_BUILDKIT=0 # the stock command line's own builder; gantry has one only
cd "$DATA" || exit

title "The application"
run "mkdir -p app/WEB-INF"
cat >app/index.html <<'END'
<!DOCTYPE html>
<meta charset="utf-8">
<h1>你好，世界</h1>
END
echo '<web-app/>' >app/WEB-INF/web.xml
cat >Dockerfile <<'END'
FROM tomcat
RUN rm -rf webapps && mkdir webapps
COPY app webapps/ROOT
EXPOSE 8080
CMD ["catalina.sh", "run"]
END
shows "FROM tomcat" "cat Dockerfile"
shows "WEB-INF" "ls -R app"

title "The image, and a container of it"
run "$DOCKER build -q -t myweb:1.0 ."
run "$DOCKER run -d --name web -p 8080:8080 myweb:1.0"
becomes "HTTP/1.1 200" "curl -s -I http://127.0.0.1:8080/ | head -n 1"
shows "你好，世界" "curl -s http://127.0.0.1:8080/"

title "Another page is another image; what the steps before it made stays"
run "sed -i s/世界/Gantry/ app/index.html"
run "$DOCKER build -q -t myweb:1.0 ."
run "$DOCKER rm -f web"
run "$DOCKER run -d --name web -p 8080:8080 myweb:1.0"
becomes "你好，Gantry" "curl -s http://127.0.0.1:8080/"
