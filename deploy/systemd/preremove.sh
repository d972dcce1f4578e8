#!/bin/sh
# Called with "upgrade" (deb) or 1 (rpm) when another version follows.
set -e
if [ -d /run/systemd/system ] && { [ "$1" = remove ] || [ "$1" = 0 ]; }; then
  systemctl disable --now memdump_exporter.service memdump_exporter.socket
fi
