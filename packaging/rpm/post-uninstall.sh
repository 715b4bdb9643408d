#!/bin/sh
# At an upgrade $1 is 1. /etc/meshsec stays, with its secrets.
if [ "$1" = 0 ]; then
    # Made by systemctl enable. They lead nowhere now.
    find /etc/systemd/system -path '*.wants/meshsec*' -xtype l -delete 2>/dev/null || true
    # The package has files, but no directories of its own.
    find /usr/share/doc/meshsec /usr/share/licenses/meshsec -type d -empty -delete || true
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload || true
