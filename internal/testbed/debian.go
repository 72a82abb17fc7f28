package testbed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// debianPackages are what the Debian root has beside the essential packages.
const debianPackages = "systemd,systemd-sysv,dbus"

const agentPath = "/usr/local/lib/powerd-testbed-agent"

// agentUnit runs the agent under systemd. Its processes outlive no boot.
const agentUnit = `[Unit]
Description=Agent of powerd's testbed
DefaultDependencies=no
[Service]
ExecStart=` + agentPath + `
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
KillMode=process
[Install]
WantedBy=sysinit.target
`

// debianRecipe makes the disk image "root.ext4" in $1 of the suite $2 with the
// packages $3. The agent is enabled here; the agent itself comes with each boot.
const debianRecipe = `set -eu
mmdebstrap --quiet --variant=minbase --include="$3" \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='Acquire::Languages "none"' \
	"$2" "$1/root"
cd "$1/root"
rm -rf var/cache/apt var/lib/apt/lists
: > etc/machine-id
echo testbed > etc/hostname
mkdir -p etc/systemd/system/sysinit.target.wants
ln -s ../powerd-testbed-agent.service etc/systemd/system/sysinit.target.wants/
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
	e2scrub_reap.service fstrim.timer systemd-networkd-wait-online.service serial-getty@ttyS0.service \
	getty@tty1.service systemd-firstboot.service; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done
cd ..
truncate -s 2G "$1/root.ext4"
mkfs.ext4 -q -F -O ^has_journal -d root root.ext4
rm -rf root
`

// debianImage returns the disk of a Debian root with more packages, made once per recipe.
func debianImage(ctx context.Context, more []string) (string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("cannot tell which Debian this is: %w", err)
	}
	suite := parseCodename(string(release))
	if suite == "" {
		return "", fmt.Errorf("cannot tell which Debian this is: /etc/os-release has no VERSION_CODENAME")
	}
	packages := strings.Join(append([]string{debianPackages}, more...), ",")
	sum := sha256.Sum256([]byte(debianRecipe + packages + suite))
	dir, err := cached("debian-"+suite+"-"+hex.EncodeToString(sum[:6]), func(dir string) error {
		if _, err := tool(ctx, dir, "sh", "-c", debianRecipe, "recipe", dir, suite, packages); err != nil {
			return fmt.Errorf("cannot make the Debian root: %w; %s", err, setupHint)
		}
		return nil
	})
	return filepath.Join(dir, "root.ext4"), err
}

// parseCodename reads the suite from os-release(5):
//
//	VERSION_CODENAME=bookworm
func parseCodename(s string) string {
	for line := range strings.Lines(s) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// Image makes an ext4 image of what fill puts into a folder. It is kept under key.
func Image(ctx context.Context, key string, fill func(dir string) error) (string, error) {
	dir, err := cached(key, func(dir string) error {
		root := filepath.Join(dir, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			return err
		}
		if err := fill(root); err != nil {
			return err
		}
		const recipe = `set -eu; cd "$1"; size=$(du -sm root | cut -f1); truncate -s $((size * 5 / 4 + 32))M image; mkfs.ext4 -q -F -O ^has_journal -d root image; rm -rf root`
		_, err := tool(ctx, dir, "sh", "-c", recipe, "recipe", dir)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot make disk %s: %w", key, err)
	}
	return filepath.Join(dir, "image"), nil
}
