#!/bin/sh
# At an upgrade $1 is 1. See packaging/deb/prerm.
[ "$1" = 0 ] || exit 0
if [ -d /run/systemd/system ] && [ ! -e /etc/systemd/system/meshsec.timer ]; then
    systemctl stop meshsec.timer || true
fi
echo "meshsec: what it has put into the kernel stays until the next boot. To be rid of it before," \
    "install meshsec again and run \`meshsec destroy'." >&2
