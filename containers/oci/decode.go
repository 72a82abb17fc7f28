package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// decode is json.Unmarshal for config.json and its like. That one examines at its first
// use every type that could be met, of Windows' and virtual machines' configs too, for 0.7
// of the 6 ms that a container's start took where it was measured; this one looks at what is
// there. What it does not know of JSON it leaves to that one.
//
// A value of the wrong type is a *FieldError.
func decode(data []byte, into any) error {
	var all json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil { // from here on it is well-formed
		return err
	}
	d := &decoder{data: data}
	return d.value(reflect.ValueOf(into).Elem())
}

type decoder struct {
	data []byte // well-formed
	at   int
}

// known are the members of structures that were met: map[reflect.Type][]member.
var known sync.Map

// A member is a field of a structure, by its name in JSON.
type member struct {
	name  string
	index []int
}

// members lists a structure's, those of embedded ones too.
func members(t reflect.Type) (list []member) {
	if list, ok := known.Load(t); ok {
		return list.([]member)
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			for _, m := range members(f.Type) {
				list = append(list, member{m.name, append([]int{i}, m.index...)})
			}
		case !f.IsExported() || name == "-":
		case name == "":
			list = append(list, member{f.Name, []int{i}})
		default:
			list = append(list, member{name, []int{i}})
		}
	}
	known.Store(t, list)
	return list
}

// find is the member of a name, if need be in other case, as encoding/json has it.
func find(list []member, name []byte) []int {
	for _, m := range list {
		if m.name == string(name) {
			return m.index
		}
	}
	for _, m := range list {
		if strings.EqualFold(m.name, string(name)) {
			return m.index
		}
	}
	return nil
}

// next skips white space and returns the byte that follows.
func (d *decoder) next() byte {
	for {
		switch c := d.data[d.at]; c {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return c
		}
	}
}

// raw skips a value and returns it.
func (d *decoder) raw() []byte {
	d.next()
	from, depth := d.at, 0
	for {
		switch c := d.next(); c {
		case '{', '[':
			depth++
			d.at++
		case '}', ']':
			depth--
			d.at++
		case ',', ':':
			d.at++
		case '"':
			d.quoted()
		default:
			d.word()
		}
		if depth == 0 {
			return d.data[from:d.at]
		}
	}
}

// quoted skips a string and returns it with its quotes.
func (d *decoder) quoted() []byte {
	from := d.at
	for d.at++; d.data[d.at] != '"'; d.at++ {
		if d.data[d.at] == '\\' {
			d.at++
		}
	}
	d.at++
	return d.data[from:d.at]
}

// word skips a number, true, false or null, and returns it.
func (d *decoder) word() string {
	from := d.at
	for d.at < len(d.data) && strings.IndexByte(" \t\r\n,:]}", d.data[d.at]) < 0 {
		d.at++
	}
	return string(d.data[from:d.at])
}

// text reads a string; what it returns is good as long as the data.
func (d *decoder) text() ([]byte, error) {
	q := d.quoted()
	if inner := q[1 : len(q)-1]; bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return inner, nil
	}
	var s string
	err := json.Unmarshal(q, &s)
	return []byte(s), err
}

// in tells of an error in which member or element it is.
func in(name string, err error) error {
	fe := new(FieldError)
	if !errors.As(err, &fe) {
		return err
	}
	if len(name) > 100 || strings.ContainsFunc(name, unicode.IsControl) {
		name = fmt.Sprintf("%.100q", name)
	}
	if fe.Field != "" && fe.Field[0] != '[' {
		name += "."
	}
	return &FieldError{name + fe.Field, fe.Why}
}

// value reads one into v. An error has the path from there.
func (d *decoder) value(v reflect.Value) error {
	c := d.next()
	if c == 'n' {
		d.word()
		switch v.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
			v.SetZero()
		}
		return nil
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return d.value(v.Elem())
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		return u.UnmarshalJSON(d.raw())
	}
	switch {
	case v.Kind() == reflect.Interface || v.Type() == reflect.TypeFor[[]byte]():
		return json.Unmarshal(d.raw(), v.Addr().Interface())
	case c == '{' && v.Kind() == reflect.Struct:
		list := members(v.Type())
		return d.object(func(name []byte) error {
			index := find(list, name)
			if index == nil {
				d.raw()
				return nil
			}
			return d.value(v.FieldByIndex(index))
		})
	case c == '{' && v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		return d.object(func(name []byte) error {
			e := reflect.New(v.Type().Elem()).Elem()
			if err := d.value(e); err != nil {
				return err
			}
			v.SetMapIndex(reflect.ValueOf(string(name)).Convert(v.Type().Key()), e)
			return nil
		})
	case c == '[' && v.Kind() == reflect.Slice:
		return d.array(v)
	case c == '"' && v.Kind() == reflect.String:
		s, err := d.text()
		v.SetString(string(s))
		return err
	case (c == 't' || c == 'f') && v.Kind() == reflect.Bool:
		v.SetBool(d.word() == "true")
		return nil
	case c == '-' || c >= '0' && c <= '9':
		return d.number(v)
	}
	kinds := map[byte]string{'{': "object", '[': "array", '"': "string", 't': "bool", 'f': "bool"}
	return field("", "it is a %s", kinds[c])
}

// object reads one; each reads the value of a name.
func (d *decoder) object(each func(name []byte) error) error {
	d.at++
	for d.next() != '}' {
		name, err := d.text()
		if err != nil {
			return err
		}
		d.next()
		d.at++ // the colon
		if err := each(name); err != nil {
			return in(string(name), err)
		}
		if d.next() == ',' {
			d.at++
		}
	}
	d.at++
	return nil
}

func (d *decoder) array(v reflect.Value) error {
	d.at++
	v.Set(reflect.MakeSlice(v.Type(), 0, 4))
	for i := 0; d.next() != ']'; i++ {
		e := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(e); err != nil {
			return in(fmt.Sprintf("[%d]", i), err)
		}
		v.Set(reflect.Append(v, e))
		if d.next() == ',' {
			d.at++
		}
	}
	d.at++
	return nil
}

func (d *decoder) number(v reflect.Value) error {
	word := d.word()
	switch {
	case v.CanInt():
		if n, err := strconv.ParseInt(word, 10, 64); err == nil && !v.OverflowInt(n) {
			v.SetInt(n)
			return nil
		}
	case v.CanUint():
		if n, err := strconv.ParseUint(word, 10, 64); err == nil && !v.OverflowUint(n) {
			v.SetUint(n)
			return nil
		}
	case v.CanFloat():
		if f, err := strconv.ParseFloat(word, 64); err == nil && !v.OverflowFloat(f) {
			v.SetFloat(f)
			return nil
		}
	default:
		return field("", "it is a number")
	}
	return field("", "it is a number %s", word)
}
