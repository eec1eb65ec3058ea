#!/bin/busybox sh
# initramfs.sh - /init of the initramfs: loads what the kernel has not built in, and goes on from the disk.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
	insmod "/modules/$module" || echo "FAIL boot the kernel does not load $module"
done < /modules/order
tries=0
until [ -b /dev/vda ] || [ $tries = 100 ]; do
	sleep 0.1
	tries=$((tries + 1))
done
mount -t ext4 -o noatime /dev/vda /root || echo "FAIL boot the disk cannot be mounted"
for directory in dev proc sys; do mount --move "/$directory" "/root/$directory"; done
exec switch_root /root /init
