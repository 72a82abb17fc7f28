// Package launch runs containers for people: from an image reference and a few wishes
// to a running container, its log, its end and its removal. It joins the rooms that do
// the work: images (root), network, seccomp, and oci, whose engine runs it.
//
// A container is a folder:
//
//	config.json    its OCI config; the folder is its bundle
//	rootfs         where its root is mounted, in its mount namespace only
//	hosts, hostname, resolv.conf
//	container.json what it was made of and when
//	log            what it wrote, if it is detached
//	exit           its wait status, 4 bytes, once it has ended
//
// Who waits for a detached container is not powerd but a monitor: a script of system
// calls of a few kilobytes (containers/spawn) that writes the exit status down and then
// becomes `powerd`, to take the network back and to remove what --rm asks to. If the
// container has a terminal, the monitor holds its master and writes the log.
package launch
