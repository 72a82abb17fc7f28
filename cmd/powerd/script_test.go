package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run this binary as powerd.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"powerd": main})
}

// TestScript runs testdata/script/*.txtar. UPDATE=1 rewrites what their cmp
// lines expect.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE") != "",
	})
}
