// Package images turns an image reference into a root file system and the image's
// config.
//
// A reference is a path if something is there, and otherwise a registry's. A path is
// looked at to tell what it is: an OCI image layout (folder or tar), an archive of
// docker save, a root file system (folder or tar), tars plain, gzip or zstd. A folder
// that is a root file system is used in place; all else is unpacked into a store.
//
// The store is a folder:
//
//	layers/CHAINID/fs          a layer unpacked, in overlayfs's form
//	layers/CHAINID/layer.json  what it came from
//	images/DIGEST.json         an image's config and its layers
//	refs/HASH.json             what a reference was last found to be
//	roots/ID                   a container's root: its upper folder, or a copy
//	tmp                        what is being made or removed
//	lock                       shared while in use, exclusive to remove
//
// Everything is made in tmp, synced, and renamed to its place, so that a process
// killed at any point leaves a sound store and leftovers in tmp, which Open and Prune
// remove.
//
// Layers follow the OCI image specification v1.1 (layer.md) and the kernel's
// Documentation/filesystems/overlayfs.rst.
package images
