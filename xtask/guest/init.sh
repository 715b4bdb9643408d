#!/bin/busybox sh
# shellcheck shell=dash
# First program of a guest: loads modules, lays a tmpfs over the host's files, hands over.
# The kernel command line carries MODULES, the host's directory of this kernel's modules.

set -e
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

# Enough for the probe that asks whether this accelerator runs a kernel at all.
if grep -q meshsec.probe /proc/cmdline; then
    echo meshsec-probe-ok >/dev/ttyS0
    poweroff -f
fi

for module in /modules/*; do
    insmod "$module"
done

# Results and the command to run; not cached, so that nothing is lost at the end.
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none scratch /scratch
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288,cache=loose host /lower
mount -t tmpfs -o size=75% tmpfs /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root

cd /root
mkdir -p proc sys dev run tmp root
mount --move /proc proc
mount --move /sys sys
mount --move /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock run/meshsec-scratch run/meshsec-vm
mount --move /scratch run/meshsec-scratch
cp /stage2 /bin/busybox run/meshsec-vm

release=$(uname -r)
mkdir -p "lib/modules/$release"
mount --bind "/root$(cat run/meshsec-scratch/modules)" "lib/modules/$release"

exec switch_root /root /run/meshsec-vm/stage2
