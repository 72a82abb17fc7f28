package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/powerd/powerd/internal/testbed"
)

// crunRecipe puts the tests of Debian's crun $2 into the folder $1, and their init. They
// are under the GPL, and no part of powerd: what is here runs them.
const crunRecipe = `set -eu
cd "$1"
mkdir -p apt/lists/partial apt/cache/archives/partial
apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
	sed -n 's/^\(.*\) Debian$/deb-src \1/p' > apt/sources.list
cat > apt/conf <<end
Dir::State::lists "$PWD/apt/lists";
Dir::Cache "$PWD/apt/cache";
Dir::Etc::sourcelist "$PWD/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
APT::Sandbox::User "root";
end
export APT_CONFIG="$PWD/apt/conf"
apt-get -qq update
apt-get -qq source --download-only "crun=$2"
tar -xf crun_*.orig.tar.xz --strip-components=1 --wildcards '*/tests/*.py' '*/tests/init.c'
: > apt/config.h
cc -O1 -w -static -Iapt -o tests/init tests/init.c
rm -rf apt crun_*
`

// crunRuntime takes away what is crun's alone: --config with the name it has anyway.
const crunRuntime = `#!/bin/sh
n=$#
while [ $n -gt 0 ]; do
	a=$1
	shift
	n=$((n - 1))
	if [ "$a" = --config ] && [ "$1" = config.json ]; then
		shift
		n=$((n - 1))
	else
		set -- "$@" "$a"
	fi
done
exec powerd-oci "$@"
`

// crunTests is a disk with the tests of the crun that apt knows.
func crunTests(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "apt-cache policy crun | sed -n 's/ *Candidate: //p'").Output()
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSpace(string(out))
	sum := sha256.Sum256([]byte(crunRecipe + version))
	image, err := testbed.Image(t.Context(), "crun-tests-"+hex.EncodeToString(sum[:6]), func(dir string) error {
		out, err := exec.CommandContext(context.Background(), "sh", "-c", crunRecipe, "recipe", dir, version).CombinedOutput()
		if err != nil {
			return fmt.Errorf("cannot get the tests of crun %s: %w: %s", version, err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// crunsOwn are tests of what is crun's alone, or what powerd-oci does otherwise on purpose.
var crunsOwn = map[string]string{
	"delete/test_multiple_containers_delete":         "--regex is crun's alone",
	"devices/owner-device":                           "in a user namespace a device is the host's of that name, as with runc",
	"exec/exec_add_no_new_privileges":                "exec keeps no_new_privs of the container, as with runc",
	"preserve_fds/preserve-fds-some":                 "descriptors that are not open are refused, as with runc",
	"resources/resources-cpu-weight-systemd":         "it is for who says +SYSTEMD, and reads a state of crun's alone",
	"resources/resources-unified-invalid-controller": "it reads crun's words",
	"resources/resources-unified-invalid-key":        "it reads crun's words",
	"seccomp/seccomp-listener":                       "it has an agent and nothing for it to do, which is refused",
	"start/delete-in-created-state":                  "the specification forbids it",
	"start/listen_pid_env":                           "LISTEN_FDS tells of a descriptor that is not open, which is refused",
	"start/sd-notify":                                "NOTIFY_SOCKET is not passed on: conmon does that",
	"start/sd-notify-env":                            "NOTIFY_SOCKET is not passed on: conmon does that",
	"start/sd-notify-file":                           "NOTIFY_SOCKET is not passed on: conmon does that",
	"start/sd-notify-proxy":                          "NOTIFY_SOCKET is not passed on: conmon does that",
	"start/start":                                    "it reads crun's own file of the state",
	"start/start-override-config":                    "--config is crun's alone",
	"uid_gid/keep-groups":                            "the annotation is crun's alone",
}

var crunToo = flag.Bool("crun", false, "run crun's own tests, of Debian's source package")

const crunVerdicts = "testdata/crun.json"

// Every test of crun's own that crun passes, powerd-oci passes, but for crunsOwn. It takes
// an archive of source packages, which not every machine has: -crun runs it, and `make conformance`.
func TestCrun(t *testing.T) {
	if !*update && !*crunToo {
		t.Skip("a comparison, by crun's source package: -crun, or make conformance")
	}
	n := node(t, crunTests(t))
	if err := n.Put("/usr/bin/powerd-as-crun", []byte(crunRuntime), 0o755); err != nil {
		t.Fatal(err)
	}
	libmount, err := os.ReadFile("testdata/libmount.py")
	if err == nil {
		err = n.Put("/libmount.py", libmount, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	sh(t, n, "mkdir /v; mount -o ro /dev/vdb /v; mkdir /crun; cp -r /v/tests /crun/; mv /libmount.py /crun/tests/; rm /crun/tests/test_checkpoint_restore.py", "")
	runtimes := map[string]string{"powerd-oci": "/usr/bin/powerd-as-crun"}
	verdicts := map[string]map[string]Verdict{}
	if *update {
		runtimes["crun"] = "/usr/bin/crun"
	} else {
		verdicts = kept(t, crunVerdicts)
	}
	said := ""
	for _, name := range slices.Sorted(maps.Keys(runtimes)) {
		// Pids of five digits, which one of them wants.
		r, err := n.Run(t.Context(), "sh", "-c", "echo 20000 > /proc/sys/kernel/ns_last_pid; cd /crun; export OCI_RUNTIME="+runtimes[name]+`
ls tests/test_*.py | xargs -P 2 -I{} sh -c '(echo "# {}"; timeout -k 5 120 python3 {} 2>&1) > {}.out'; cat tests/*.out`)
		if err != nil {
			t.Fatal(err)
		}
		verdicts[name] = crunJudge(string(r.Stdout))
		said = string(r.Stdout)
	}
	for _, name := range slices.Sorted(maps.Keys(verdicts["crun"])) {
		own, theirs := verdicts["powerd-oci"][name], verdicts["crun"][name]
		why, deliberate := crunsOwn[name]
		switch {
		case deliberate && own == Pass:
			t.Errorf("%s passes, though %s", name, why)
		case !deliberate && theirs == Pass && own != Pass:
			t.Errorf("%s: %q, where crun passes", name, own)
		}
	}
	if t.Failed() {
		t.Log(said)
	}
	if *update {
		data, err := json.MarshalIndent(map[string]any{"crun": verdicts["crun"]}, "", "\t")
		if err == nil {
			err = os.WriteFile(crunVerdicts, append(data, '\n'), 0o644)
		}
		if err == nil {
			err = os.WriteFile("../../docs/crun-tests.md", crunPage(verdicts), 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// crunPage is the table of the documentation.
func crunPage(verdicts map[string]map[string]Verdict) []byte {
	var b bytes.Buffer
	b.WriteString("# powerd-oci under crun's own tests\n\nThe Python tests of Debian's crun source package, but those of checkpoints, run in the testbed\non " +
		time.Now().Format(time.DateOnly) + " with crun and with powerd-oci; the tests are downloaded, and no part of powerd.\n`make conformance` made this page.\n\n| test | powerd-oci | crun | |\n|---|---|---|---|\n")
	count := map[string]int{}
	names := slices.Sorted(maps.Keys(verdicts["crun"]))
	for _, name := range names {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, verdicts["powerd-oci"][name], verdicts["crun"][name], crunsOwn[name])
		for rt := range verdicts {
			if verdicts[rt][name] == Pass {
				count[rt]++
			}
		}
	}
	fmt.Fprintf(&b, "| passed, of %d | %d | %d | |\n", len(names), count["powerd-oci"], count["crun"])
	return b.Bytes()
}

// crunJudge reads the TAP of test files, each after a line with its name.
func crunJudge(said string) map[string]Verdict {
	verdicts := map[string]Verdict{}
	file := ""
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if f, ok := strings.CutPrefix(line, "# tests/test_"); ok {
			file = strings.TrimSuffix(f, ".py")
		}
		_, name, _ := strings.Cut(line, " - ")
		switch {
		case strings.HasPrefix(line, "not ok "):
			verdicts[file+"/"+name] = Fail
		case strings.HasPrefix(line, "ok ") && strings.HasSuffix(name, " #SKIP"):
			verdicts[file+"/"+strings.TrimSuffix(name, " #SKIP")] = Skip
		case strings.HasPrefix(line, "ok "):
			verdicts[file+"/"+name] = Pass
		}
	}
	return verdicts
}
