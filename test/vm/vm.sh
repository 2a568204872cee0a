#!/bin/bash
# A throw-away Debian machine under qemu, with control groups of version 2: for what the kernel below cannot show.
#
#   vm.sh prep                                    makes kernel and root disk, once (needs apt and the network)
#   vm.sh [-s] [-m MB] [-c CPUS] [-d DIR] -- CMD  boots, runs CMD as root, and exits as CMD did
#
# DIR (default: the current one) is shared as /mnt/share, and CMD's working directory. What the guest writes
# elsewhere is gone afterwards. -s boots systemd and runs CMD as a service with Delegate=yes; without it PID 1 is
# a shell, and the machine is ready in a fraction of the time. 125 means that the machine itself failed.
#
# The processor is emulated even where /dev/kvm is: nested virtualisation fails in too many ways. Packages: qemu-system-x86 mmdebstrap kmod e2fsprogs busybox-static.
set -eu
export PATH=$PATH:/usr/sbin:/sbin
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gantry-vm
suite=bookworm
packages=systemd-sysv,dbus,busybox-static,kmod,procps,iproute2,nftables,ca-certificates
# What an image was made from names it, so that a changed recipe makes a new one.
recipe=$(sed -n '/^suite=/p; /^packages=/p; /^prep()/,/^}/p' "$0" | sha256sum | cut -c1-12)
vm=$cache/$recipe

die() {
  echo "vm.sh: $*" >&2
  exit 125
}

prep() {
  [ -e "$vm/ready" ] && return
  for tool in qemu-system-x86_64 mmdebstrap depmod mke2fs busybox; do
    command -v $tool >/dev/null || die "$tool is missing; install qemu-system-x86 mmdebstrap kmod e2fsprogs busybox-static"
  done
  mkdir -p "$vm"
  exec 9>"$vm/lock"
  flock 9 # one at a time; the others find it ready
  [ -e "$vm/ready" ] && return
  cd "$vm"
  rm -rf kernel root root.img initrd
  mkdir kernel root

  # The kernel's package is unpacked, not installed: it would build an initrd and a boot loader's menu. (The
  # smaller "cloud" kernel has no 9p.)
  local name release m
  name=$(apt-cache depends linux-image-amd64 | awk '/Depends:/ {print $2; exit}')
  [ -n "$name" ] || die "apt knows no linux-image-amd64; run apt-get update"
  (
    cd kernel
    # Lists that are older than the last security update name a file that is gone.
    apt-get download -qq "$name" || { apt-get update -qq && apt-get download -qq "$name"; }
    dpkg -x ./*.deb .
    rm ./*.deb
  )
  release=$(ls kernel/lib/modules)
  cp "kernel/boot/vmlinuz-$release" vmlinuz
  depmod -b kernel "$release"

  mmdebstrap --quiet --variant=essential --include=$packages $suite root
  mkdir -p root/mnt/share root/lib/modules/"$release"
  (
    cd "kernel/lib/modules/$release"
    cp modules.builtin modules.builtin.modinfo modules.order "$vm/root/lib/modules/$release"
    for m in arch crypto fs lib net drivers/block drivers/virtio drivers/char/hw_random drivers/net/{dummy,tun,veth,virtio_net}.ko; do
      mkdir -p "$vm/root/lib/modules/$release/kernel/$(dirname "$m")"
      cp -a "kernel/$m" "$vm/root/lib/modules/$release/kernel/$m"
    done
  )
  depmod -b root "$release"
  cat >root/etc/systemd/system/job.service <<'U'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
Delegate=yes
ExecStart=/bin/sh /mnt/share/.vm/job
ExecStopPost=/bin/systemctl --no-block poweroff
[Install]
WantedBy=default.target
U
  mkdir -p root/etc/systemd/system/multi-user.target.wants
  ln -s ../job.service root/etc/systemd/system/multi-user.target.wants/job.service
  ln -sf multi-user.target root/lib/systemd/system/default.target
  truncate -s 4G root.img
  mke2fs -q -t ext4 -d root root.img

  # The initrd: busybox, and the modules that lead to the disk and the share.
  mkdir -p initrd/bin initrd/modules initrd/proc initrd/sys initrd/dev initrd/root
  cp "$(command -v busybox)" initrd/bin/busybox
  for m in virtio_pci virtio_blk ext4 9p 9pnet_virtio virtio_rng; do
    modprobe -d "$vm/kernel" -S "$release" --show-depends $m
  done | awk '/^insmod/ && !seen[$2]++ {print $2}' | while read -r m; do
    cp "$m" initrd/modules
    basename "$m" >>initrd/order
  done
  cat >initrd/init <<'I'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
while read -r m; do insmod /modules/$m || echo "insmod $m failed"; done </order
mount -t ext4 -o rw,noatime /dev/vda /root || poweroff -f
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share /root/mnt/share || poweroff -f
grep -q 'vm=systemd' /proc/cmdline && exec switch_root /root /sbin/init
exec switch_root /root /bin/sh /mnt/share/.vm/init
I
  chmod +x initrd/init
  (cd initrd && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >initrd.gz
  rm -rf kernel root initrd
  touch ready
}

[ "${1:-}" = prep ] && { prep; exit; }

memory=2048 cpus=2 mode=shell dir=$PWD
while getopts sm:c:d: o; do
  case $o in
    s) mode=systemd ;;
    m) memory=$OPTARG ;;
    c) cpus=$OPTARG ;;
    d) dir=$OPTARG ;;
    *) exit 125 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || die "no command"
[ -e "$vm/ready" ] || die "no machine yet; run: $0 prep"
dir=$(cd "$dir" && pwd)
job=$dir/.vm
rm -rf "$job"
mkdir "$job"
printf '%q ' "$@" >"$job/command"
cat >"$job/job" <<'J'
cd /mnt/share
bash .vm/command </dev/null >.vm/output 2>&1
echo $? >.vm/status
sync
J
cat >"$job/init" <<'I'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts
for d in /dev/shm /run /tmp; do mount -t tmpfs t $d; done
mount -t cgroup2 -o nsdelegate c /sys/fs/cgroup; mount -t bpf b /sys/fs/bpf
ip link set lo up; hostname vm
sh /mnt/share/.vm/job
busybox poweroff -f
I

masked=
[ $mode = systemd ] && for unit in systemd-udev-settle.service getty.target timers.target systemd-random-seed.service systemd-timesyncd.service; do
  masked="$masked systemd.mask=$unit"
done
rc=0
timeout "${VM_TIMEOUT:-300}" qemu-system-x86_64 -M q35 -accel tcg,thread=multi,tb-size=512 -cpu max -m "$memory" -smp "$cpus" \
  -nodefaults -no-user-config -display none -serial file:"$job/console" -no-reboot \
  -kernel "$vm/vmlinuz" -initrd "$vm/initrd.gz" \
  -append "console=ttyS0 quiet panic=-1 net.ifnames=0 no_timer_check mitigations=off random.trust_cpu=on vm=$mode systemd.unified_cgroup_hierarchy=1$masked" \
  -drive file="$vm/root.img",if=none,id=disk,format=raw,snapshot=on -device virtio-blk-pci,drive=disk \
  -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng \
  -virtfs local,path="$dir",mount_tag=share,security_model=none,multidevs=remap </dev/null || rc=$?
[ -f "$job/output" ] && cat "$job/output"
[ -f "$job/status" ] || {
  tail -20 "$job/console" >&2 || true
  die "the machine ended without the command's status (qemu: $rc; 124 is the time limit)"
}
exit "$(cat "$job/status")"
