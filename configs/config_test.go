package configs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDefault(t *testing.T) {
	c, err := Parse()
	if err != nil {
		t.Fatal(err)
	}
	if c.Interval != time.Second || c.Policy.Headroom != 0.8 || len(c.Policy.Classes) != 3 || !c.EnableControllers || c.Reclaim {
		t.Errorf("%+v", c)
	}
	if class, ok := c.Class("powerd/batch-1"); !ok || class != "batch" {
		t.Errorf("powerd/batch-1 is of class %q", class)
	}
	if class, ok := c.Class("powerd/x"); !ok || class != "bounded" {
		t.Errorf("powerd/x is of class %q", class)
	}
	if _, ok := c.Class("system.slice/ssh.service"); ok {
		t.Error("a cgroup that no class names has one")
	}
	// Every key of the file's structure stands in the reference.
	for _, key := range []string{"interval", "headroom", "enable_controllers", "reclaim", "platform", "state_dir", "socket", "tenants", "idle", "disable",
		"classes", "name", "cgroups", "objective", "max_slowdown", "cpu_limit", "priority", "max_wake_latency", "max_delay"} {
		if !strings.Contains(string(Default), key+":") {
			t.Errorf("default.yaml does not show %s", key)
		}
	}
}

func TestPoliciesParse(t *testing.T) {
	names, _ := filepath.Glob("policies/*.yaml")
	if len(names) == 0 {
		t.Fatal("there are no policies")
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := Parse(File{name, data}); err != nil || len(c.Policy.Classes) == 0 || c.Interval != time.Second {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLayers(t *testing.T) {
	c, err := Parse(
		File{"a.yaml", []byte("classes:\n  - {name: x, cgroups: [a/*], objective: energy}\n")},
		File{"b.yaml", []byte("interval: 2s\nclasses:\n  - {name: x, cgroups: [b/*], objective: latency}\n  - {name: y, cgroups: [c/*], objective: energy, max_slowdown: 10%}\n")})
	if err != nil {
		t.Fatal(err)
	}
	if c.Interval != 2*time.Second || len(c.Policy.Classes) != 2 || c.Policy.Classes[0].Objective != "latency" || *c.Policy.Classes[1].MaxSlowdown != 0.1 {
		t.Errorf("%+v", c)
	}
}

func TestErrorsPoint(t *testing.T) {
	class := func(s string) string {
		return "classes:\n  - name: x\n    cgroups: [a/*]\n    objective: energy\n    " + s + "\n"
	}
	for _, tt := range []struct{ in, want string }{
		{"intervall: 1s\n", `f.yaml:1:1: unknown field "intervall"`},
		{"interval: 1\n", `f.yaml:1:11: interval: cannot read time "1": want a number and a unit (us, ms, s)`},
		{"interval: 0s\n", "f.yaml:1:11: interval: 0 us is not between 10ms and 1 hour"},
		{"interval: [1]\n", "f.yaml:1:11: "},
		{"headroom: 0.8\n", "f.yaml:1:11: headroom: want a percentage"},
		{"headroom: 101%\n", "f.yaml:1:11: headroom: "},
		{"tenants: town\n", `f.yaml:1:10: tenants: want core or cache, not "town"`},
		{"state_dir: x\n", `f.yaml:1:12: state_dir: "x" is not an absolute path`},
		{"classes:\n  - cgroups: [a]\n    objective: energy\n", "f.yaml:2:"},
		{"classes:\n  - {name: x, objective: energy}\n", "classes[0].cgroups: a class needs the cgroups"},
		{"classes:\n  - {name: x, cgroups: [a], objective: fast}\n", `f.yaml:2:40: classes[0].objective: want energy or latency, not "fast"`},
		{class("max_slowdown: x"), "f.yaml:5:19: classes[0].max_slowdown: want a percentage"},
		{class("cpu_limit: 0"), "f.yaml:5:16: classes[0].cpu_limit: 0 is not a number of cores"},
		{class("cpu_limit: .nan"), "classes[0].cpu_limit"},
		{class("max_wake_latency: 5"), "f.yaml:5:23: classes[0].max_wake_latency: cannot read time"},
		{class("max_delay: 9ms"), "f.yaml:5:16: classes[0].max_delay: 9 ms is neither 0s nor between 10ms and 1s"},
		{class("max_delay: 2"), "f.yaml:5:16: classes[0].max_delay: cannot read time"},
		{"classes:\n  - {name: x, cgroups: [a], objective: latency, max_delay: 20ms}\n", "classes[0].max_delay: only work of objective energy"},
		{"classes:\n  - {name: x, cgroups: [\"a/[\"], objective: energy}\n", "classes[0].cgroups[0]: cgroup pattern"},
		{"a: 1\n---\nb: 2\n", "2 documents"},
		{"a: [\n", "f.yaml:1:"},
		{"\t\n a: b", "f.yaml:2:2: unknown field"},
	} {
		_, err := Parse(File{"f.yaml", []byte(tt.in)})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q:\n got %v\nwant %s", tt.in, err, tt.want)
		}
	}
	_, err := Parse(File{"f.yaml", []byte("interval: x\nheadroom: y\n")})
	if err == nil || strings.Count(err.Error(), "f.yaml:") != 2 {
		t.Errorf("not every problem is reported: %v", err)
	}
}

func TestLoad(t *testing.T) {
	etc := t.TempDir()
	os.MkdirAll(filepath.Join(etc, "powerd/conf.d"), 0o755)
	if c, err := Load("", etc); err != nil || c.Interval != time.Second {
		t.Errorf("without files: %v", err)
	}
	os.WriteFile(filepath.Join(etc, "powerd/powerd.yaml"), []byte("interval: 2s\n"), 0o644)
	os.WriteFile(filepath.Join(etc, "powerd/conf.d/10.yaml"), []byte("interval: 3s\n"), 0o644)
	if c, err := Load("", etc); err != nil || c.Interval != 3*time.Second {
		t.Errorf("with a drop-in: %v, %v", c.Interval, err)
	}
	if _, err := Load(filepath.Join(etc, "none.yaml"), etc); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(Default))
	f.Add([]byte("classes:\n  - {name: x, cgroups: [a], objective: fast}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(File{"f.yaml", data})
		if err != nil {
			if !strings.Contains(err.Error(), "f.yaml") {
				t.Errorf("the error names no file: %v", err)
			}
			return
		}
		if c.Interval < 10*time.Millisecond || len(c.Rules) != len(c.Policy.Classes) {
			t.Errorf("%+v", c)
		}
	})
}
