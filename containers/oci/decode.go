package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// decode is json.Unmarshal for config.json and its like. That one examines at its first
// use every type that could be met, of Windows' and virtual machines' configs too, which
// takes as long as half of a container's start; this one looks at what is there. What it
// does not know of JSON it leaves to that one.
//
// A value of the wrong type is a *FieldError.
func decode(data []byte, into any) error {
	var all json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil { // from here on it is well-formed
		return err
	}
	d := &decoder{data: data, types: map[reflect.Type][]member{}}
	return d.value(reflect.ValueOf(into).Elem(), "")
}

type decoder struct {
	data  []byte // well-formed
	at    int
	types map[reflect.Type][]member
}

// A member is a field of a structure, by its name in JSON.
type member struct {
	name  string
	index []int
}

// members lists a structure's, those of embedded ones too.
func (d *decoder) members(t reflect.Type) []member {
	list, ok := d.types[t]
	if ok {
		return list
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			for _, m := range d.members(f.Type) {
				list = append(list, member{m.name, append([]int{i}, m.index...)})
			}
		case !f.IsExported() || name == "-":
		case name == "":
			list = append(list, member{f.Name, []int{i}})
		default:
			list = append(list, member{name, []int{i}})
		}
	}
	d.types[t] = list
	return list
}

// find is the member of a name, if need be in other case, as encoding/json has it.
func find(list []member, name string) []int {
	for _, m := range list {
		if m.name == name {
			return m.index
		}
	}
	for _, m := range list {
		if strings.EqualFold(m.name, name) {
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

func (d *decoder) text() (s string, err error) {
	q := d.quoted()
	if inner := q[1 : len(q)-1]; bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner), nil
	}
	err = json.Unmarshal(q, &s)
	return s, err
}

// value reads one into v, whose path in the whole is for errors.
func (d *decoder) value(v reflect.Value, path string) error {
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
		return d.value(v.Elem(), path)
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		return u.UnmarshalJSON(d.raw())
	}
	switch {
	case v.Kind() == reflect.Interface || v.Type() == reflect.TypeFor[[]byte]():
		return json.Unmarshal(d.raw(), v.Addr().Interface())
	case c == '{' && v.Kind() == reflect.Struct:
		return d.object(func(name string) error {
			index := find(d.members(v.Type()), name)
			if index == nil {
				d.raw()
				return nil
			}
			return d.value(v.FieldByIndex(index), strings.TrimPrefix(path+"."+name, "."))
		})
	case c == '{' && v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		return d.object(func(name string) error {
			e := reflect.New(v.Type().Elem()).Elem()
			if err := d.value(e, path+"."+name); err != nil {
				return err
			}
			v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), e)
			return nil
		})
	case c == '[' && v.Kind() == reflect.Slice:
		return d.array(v, path)
	case c == '"' && v.Kind() == reflect.String:
		s, err := d.text()
		v.SetString(s)
		return err
	case (c == 't' || c == 'f') && v.Kind() == reflect.Bool:
		v.SetBool(d.word() == "true")
		return nil
	case c == '-' || c >= '0' && c <= '9':
		return d.number(v, path)
	}
	kinds := map[byte]string{'{': "object", '[': "array", '"': "string", 't': "bool", 'f': "bool"}
	return field(path, "it is a %s", kinds[c])
}

// object reads one; each reads the value of a name.
func (d *decoder) object(each func(name string) error) error {
	d.at++
	for d.next() != '}' {
		name, err := d.text()
		if err != nil {
			return err
		}
		d.next()
		d.at++ // the colon
		if err := each(name); err != nil {
			return err
		}
		if d.next() == ',' {
			d.at++
		}
	}
	d.at++
	return nil
}

func (d *decoder) array(v reflect.Value, path string) error {
	d.at++
	v.Set(reflect.MakeSlice(v.Type(), 0, 4))
	for i := 0; d.next() != ']'; i++ {
		e := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(e, fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
		v.Set(reflect.Append(v, e))
		if d.next() == ',' {
			d.at++
		}
	}
	d.at++
	return nil
}

func (d *decoder) number(v reflect.Value, path string) error {
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
		return field(path, "it is a number")
	}
	return field(path, "it is a number %s", word)
}
