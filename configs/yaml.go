package configs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// A document is one YAML file, kept so that errors found later can point at
// their line.
type document struct {
	name string
	file *ast.File
}

// maxYAML bounds a file; ours are a few hundred lines.
const maxYAML = 1 << 20

// decode reads data into raw and refuses keys that raw does not have.
func decode(name string, data []byte, raw any) (d document, err error) {
	// The YAML library has panicked on hostile input before; a bad file must
	// never take the daemon down.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot read %s: it is not YAML (%v)", name, p)
		}
	}()
	d = document{name: name}
	if len(data) > maxYAML {
		return d, fmt.Errorf("cannot read %s: it is larger than %d bytes", name, maxYAML)
	}
	if d.file, err = parser.ParseBytes(data, 0); err != nil {
		return d, d.explain(err)
	}
	if len(d.file.Docs) > 1 {
		return d, fmt.Errorf("cannot read %s: it holds %d documents, want one", name, len(d.file.Docs))
	}
	if len(d.file.Docs) == 0 || d.file.Docs[0].Body == nil {
		return d, nil // an empty file says nothing, and that is allowed
	}
	if err := yaml.NodeToValue(d.file.Docs[0].Body, raw, yaml.Strict()); err != nil {
		return d, d.explain(err)
	}
	return d, nil
}

// explain turns the library's error, a picture of several lines, into one line
// with the position in front.
func (d document) explain(err error) error {
	var ye yaml.Error
	if errors.As(err, &ye) && ye.GetToken() != nil && ye.GetToken().Position != nil {
		pos := ye.GetToken().Position
		return fmt.Errorf("%s:%d:%d: %s", d.name, pos.Line, pos.Column, oneLine(ye.GetMessage()))
	}
	return fmt.Errorf("cannot read %s: %s", d.name, oneLine(err.Error()))
}

func oneLine(s string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return first
}

// errorf makes an error about the value at a path of keys and indexes, e.g.
// "classes", 0, "objective". Where the value is not there its nearest parent's
// line is named.
func (d document) errorf(path []any, format string, args ...any) error {
	key := ""
	var node ast.Node
	if d.file != nil && len(d.file.Docs) > 0 {
		node = d.file.Docs[0].Body
	}
	for _, p := range path {
		switch p := p.(type) {
		case string:
			if key != "" {
				key += "."
			}
			key += p
		case int:
			key += "[" + strconv.Itoa(p) + "]"
		}
		if next := child(node, p); next != nil {
			node = next
		}
	}
	message := fmt.Sprintf(format, args...)
	if key != "" {
		message = key + ": " + message
	}
	if node != nil && node.GetToken() != nil && node.GetToken().Position != nil {
		pos := node.GetToken().Position
		return fmt.Errorf("%s:%d:%d: %s", d.name, pos.Line, pos.Column, message)
	}
	return fmt.Errorf("%s: %s", d.name, message)
}

func child(node ast.Node, at any) ast.Node {
	switch n := node.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			if key, ok := at.(string); ok && v.Key.String() == key {
				return v.Value
			}
		}
	case *ast.MappingValueNode:
		if key, ok := at.(string); ok && n.Key.String() == key {
			return n.Value
		}
	case *ast.SequenceNode:
		if i, ok := at.(int); ok && i < len(n.Values) {
			return n.Values[i]
		}
	}
	return nil
}
