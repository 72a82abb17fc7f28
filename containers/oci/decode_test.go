package oci

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// everyField sets every field below v, so that none is forgotten.
func everyField(v reflect.Value, depth int) {
	switch {
	case depth > 12:
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		everyField(v.Elem(), depth+1)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				everyField(v.Field(i), depth+1)
			}
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		everyField(v.Index(0), depth+1)
		everyField(v.Index(1), depth+1)
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		e := reflect.New(v.Type().Elem()).Elem()
		everyField(e, depth+1)
		v.SetMapIndex(reflect.ValueOf("a \"key\" of \\ ä").Convert(v.Type().Key()), e)
	case v.Kind() == reflect.String:
		v.SetString("a \"text\"\n of ünï\x00 <\u2028> \\")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(-7 - int64(depth))
	case v.CanUint():
		v.SetUint(7 + uint64(depth))
	case v.Kind() == reflect.Interface:
		v.Set(reflect.ValueOf(map[string]any{"x": 1.5}))
	}
}

// TestDecode holds decode against encoding/json.
func TestDecode(t *testing.T) {
	whole := &specs.Spec{}
	everyField(reflect.ValueOf(whole).Elem(), 0)
	texts := []string{
		`null`, `{}`, ` { "ociVersion" : "1.0.0" , "x" : [ { "y" : [ -1.5e3 , "\"]}" , true , null ] } ] } `,
		`{"OCIVERSION":"1.0.0","ociversion":"1.0.1","Process":{"ARGS":["a","\u00e4\ud83d\ude00\ud800"],"user":{"umask":0}}}`,
		`{"mounts":[],"process":null,"annotations":{"a":"b","c":null},"linux":{"sysctl":{},"resources":{"pids":{"limit":-9223372036854775808}}}}`,
		"{\"hostname\":\"\xff\xfe\"}",
		`{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10}]}}}}`,
	}
	for _, v := range []any{whole, DefaultSpec()} {
		for _, indent := range []string{"", "\t"} {
			data, err := json.MarshalIndent(v, indent, indent)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(data))
		}
	}
	for _, text := range texts {
		var want, got specs.Spec
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if err := decode([]byte(text), &got); err != nil {
			t.Errorf("%.80s: %v", text, err)
		} else if d := cmp.Diff(want, got, cmp.Exporter(func(reflect.Type) bool { return true })); d != "" {
			t.Errorf("%.80s:\n%s", text, d)
		}
	}
	for text, want := range map[string]string{
		`{"process":{"args":"sh"}}`:                            "process.args: it is a string",
		`{"process":{"args":["sh",{}]}}`:                       "process.args[1]: it is a object",
		`{"process":{"user":{"uid":-1}}}`:                      "process.user.uid: it is a number -1",
		`{"linux":{"resources":{"pids":{"limit":1e3}}}}`:       "linux.resources.pids.limit: it is a number 1e3",
		`{"process":{"terminal":1}}`:                           "process.terminal: it is a number",
		`{"annotations":{"a\nb":1}}`:                           `annotations."a\nb": it is a number`,
		`{"annotations":{"a":[]}}`:                             "annotations.a: it is a array",
		`{"linux":{"namespaces":[{"type":true}]}}`:             "linux.namespaces[0].type: it is a bool",
		`{"linux":{"resources":{"cpu":{"shares":1.0}}}}`:       "linux.resources.cpu.shares: it is a number 1.0",
		`{"process":{"user":{"uid":99999999999999999999999}}}`: "process.user.uid: it is a number 99999999999999999999999",
	} {
		var s specs.Spec
		err := decode([]byte(text), &s)
		if fe := new(FieldError); !errors.As(err, &fe) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	for _, text := range []string{"", "{", `{"a":}`, `{} {}`, `{"a":01}`} {
		if err := decode([]byte(text), &specs.Spec{}); err == nil {
			t.Errorf("%s is well-formed", text)
		}
	}
}

// FuzzDecode takes what encoding/json takes, and nothing else.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(minimal + "}"))
	f.Add([]byte(`{"process":{"args":["\ud800"],"user":{"uid":1e3}},"mounts":[null,{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var want, got specs.Spec
		if werr, gerr := json.Unmarshal(data, &want), decode(data, &got); (werr == nil) != (gerr == nil) {
			t.Fatalf("encoding/json: %v, decode: %v", werr, gerr)
		}
	})
}
