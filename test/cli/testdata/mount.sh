# What --mount and -p refuse.
for m in type=foo type=bind type=bind,src=/a src=/a,dst=/b,foo=bar type=bind,src=/a,dst=/b,readonly=x foo type=tmpfs,dst=/t,tmpfs-size=x \
	type=tmpfs,dst=/t,tmpfs-mode=9 type=bind,volume-nocopy,dst=/x type=tmpfs,bind-propagation=shared,dst=/x type=bind,src=/nope,dst=/x \
	type=bind,src=/a,dst=/b,bind-recursive=foo 'a"b' type=tmpfs,src=/x,dst=/y type=volume,dst=/x,tmpfs-size=1; do
	d run --rm --network none --mount "$m" busybox true
done
for p in a 80:90:100 1.2.3.4:a:80 :80 80:foo 80-81:90-95 80/foo 99999 1.2.3.400:80:80 80: '' 90-80 'target=80' 'target=x,published=8' 'target' '[::1]:80:80x'; do
	d run --rm --network none -p "$p" busybox true
done
