#!/bin/sh
# Second program of a guest, with the host's files as root: readies the system, runs the command,
# leaves its status in the scratch directory and turns the machine off.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
scratch=/run/meshsec-scratch

mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,gid=5 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
# udev would make these.
ln -sfn /proc/self/fd /dev/fd
ln -sfn /proc/self/fd/0 /dev/stdin
ln -sfn /proc/self/fd/1 /dev/stdout
ln -sfn /proc/self/fd/2 /dev/stderr
# /tmp stays the same as on the host, beneath the overlay: the repository may lie in it.
chmod 1777 /tmp
# `ip netns` shares its mounts; the root must allow that.
mount --make-rshared /
# Scripts may name the host; its own name need not resolve here.
echo meshsec-vm >/proc/sys/kernel/hostname
ip link set lo up

# Programs that run thousands of times are copied into memory: once touched, a file lies in the
# overlay, and the host is not asked again. Otherwise every start of a program is dozens of requests.
# shellcheck disable=SC2086 # lists of paths, none of which has a space
into_memory() {
    touch -ch /bin /lib /lib64 /sbin /etc/alternatives/*tables* /usr/sbin/*tables*
    programs=$(for name in "$@"; do command -v "$name"; done; cat "$scratch/programs")
    libraries=$(ldd $programs | sed -n 's,[^/]*\(/[^ :]*\) (.*,\1,p' | sort -u)
    touch -ch $programs $libraries
    # Targets of symbolic links, and files that programs open by name, such as extensions of iptables.
    touch -c $programs $libraries /etc/ld.so.cache /etc/iproute2/* /usr/lib/locale/C.utf8/* \
        /etc/nsswitch.conf /etc/protocols \
        "$(dirname "$(readlink -f /lib64/ld-linux-*)")"/xtables/*
}
into_memory bridge cat date ip iptables-legacy iptables-nft ip6tables-legacy ip6tables-nft mount \
    ping python3 sh strace tcpdump unshare >/dev/null 2>&1

# The one virtio port. Its number depends on the order of devices. It can be opened once only, so
# the command writes to a pipe, which it can open again as /dev/stdout or /dev/stderr.
mkfifo /run/meshsec-vm/output
for device in /dev/vport*p1; do :; done
cat /run/meshsec-vm/output >"$device" &
port=$!
: >"$scratch/started"
sh "$scratch/command" </dev/null >/run/meshsec-vm/output 2>&1
status=$?

# The port ends with the last writer; one that the command left behind has five seconds.
(sleep 5; kill "$port") >/dev/null 2>&1 &
wait "$port"

# Renamed, so that the host never reads half a number.
echo "$status" >"$scratch/status.new"
mv "$scratch/status.new" "$scratch/status"
exec /run/meshsec-vm/busybox poweroff -f
