package main

import (
	"github.com/spf13/cobra"

	"github.com/powerd/powerd/internal/sysfs"
)

func newInspectCmd(u *ui) *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "inspect",
		Short: "Print what this machine is and which energy controls it offers",
		Args:  noArgs,
	}
	cmd.Flags().StringVar(&root, "root", "/", "folder the machine's sys and proc are below")
	output := outputFlag(cmd, "table", "json")
	cmd.RunE = func(*cobra.Command, []string) error {
		m, err := openMachine(root)
		if err != nil {
			return err
		}
		defer m.Close()
		if output.value == "json" {
			return u.json(m.Root())
		}
		u.printf("%s\n", m.Root())
		return nil
	}
	return cmd
}

// openMachine opens the machine below a folder.
func openMachine(folder string) (*sysfs.Dir, error) {
	m, err := sysfs.Host(folder)
	if err != nil {
		return nil, withHint(err, "--root wants a folder that holds sys and proc, like / or an unpacked capture")
	}
	return m, nil
}
