package inspect

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"

	"github.com/seed-637b77f9/changefeed/internal/inspection"
	"github.com/seed-637b77f9/changefeed/web"
)

// A rowPage is some rows of a table.
type rowPage struct {
	table string
	by    string // the index, or empty for the keys
	rows  []rowView
	next  string // the cursor of the next page, or empty if there is none
}

// A rowView is the JSON of a row.
type rowView struct{ value, key, row []byte }

// appendJSON appends the page. It does not use [json.Marshal], which would read the rows again, and
// refuse those that are nested deeper than it decodes.
func (p *rowPage) appendJSON(to []byte) []byte {
	to = fmt.Appendf(to, `{"table":%s,"by":%s,"next":%s,"rows":[`, jsonOf(p.table), jsonOf(p.by), jsonOf(p.next))
	for i, r := range p.rows {
		if i > 0 {
			to = append(to, ',')
		}
		to = fmt.Appendf(to, "\n{\"value\":%s,\"key\":%s,\"row\":%s}", r.value, r.key, r.row)
	}
	return append(to, "]}\n"...)
}

const maxRows = 1000

// rows returns the page of rows that a request asks for.
func (h *handler) rows(query url.Values) (*rowPage, error) {
	t, err := h.table(query)
	if err != nil {
		return nil, err
	}
	order := find(inspection.Orders(t.AnyTable), query.Get("by"))
	if order == nil {
		return nil, &web.StatusError{Status: http.StatusNotFound, Text: "the table has no such index"}
	}
	limit, err := number(query, "limit", 50, maxRows)
	if err != nil {
		return nil, err
	}
	in, err := intervalOf(order, query)
	if err != nil {
		return nil, err
	}
	p := &rowPage{table: t.label, by: order.Name()}
	err = safely(func() error { return p.read(order, in, limit) })
	return p, err
}

// read reads a page. It calls users' functions.
func (p *rowPage) read(order inspection.Order, in interval, limit int) error {
	skip := in.begin.Skip
	var last inspection.Row
	for row := range order.Rows(in.Interval) {
		if skip > 0 {
			skip--
			continue
		}
		if len(p.rows) == limit {
			p.next = in.begin.after(order, last, limit).String()
			break
		}
		p.rows = append(p.rows, rowView{jsonOf(row.Value), jsonOf(row.Key), jsonOf(row.Row)})
		last = row
	}
	return nil
}

func find(orders []inspection.Order, name string) inspection.Order {
	for _, o := range orders {
		if o.Name() == name {
			return o
		}
	}
	return nil
}

// An interval is the rows that a request asks for: those of an interval of the order that come after
// a cursor.
type interval struct {
	inspection.Interval
	begin cursor
}

// intervalOf returns the interval that a request asks for.
func intervalOf(order inspection.Order, query url.Values) (in interval, err error) {
	if query.Has("equal") && (query.Has("from") || query.Has("to")) {
		return in, badRequest("equal cannot be combined with from and to")
	}
	valueType, keyType := order.Types()
	for name, to := range map[string]*any{"equal": &in.Equal, "from": &in.From, "to": &in.To} {
		if !query.Has(name) {
			continue
		}
		if *to, err = parse(query.Get(name), valueType); err != nil || isNil(*to) {
			return in, badRequest("%s is not a value of type %v", name, valueType)
		}
	}
	if text := query.Get("after"); text != "" {
		if in.begin, err = parseCursor(text); err == nil {
			in.After, err = in.begin.row(valueType, keyType)
		}
		if err != nil {
			return in, badRequest("after is not the cursor of a page")
		}
	}
	return in, nil
}

// parse returns the value of a type that a person has written.
func parse(text string, t reflect.Type) (any, error) {
	v := reflect.New(t)
	if t.Kind() == reflect.String {
		v.Elem().SetString(text)
		return v.Elem().Interface(), nil
	}
	err := safely(func() error {
		if u, ok := v.Interface().(encoding.TextUnmarshaler); ok {
			return u.UnmarshalText([]byte(text))
		}
		return json.Unmarshal([]byte(text), v.Interface())
	})
	return v.Elem().Interface(), err
}

// isNil reports whether a value of a user's type is nil. Its functions may not expect that.
func isNil(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan:
		return r.IsNil()
	}
	return false
}

// A cursor is a place in an order: so many rows after the row with a value and a key, or after the
// beginning of the interval.
type cursor struct {
	Row  *[2]json.RawMessage `json:",omitempty"`
	Skip int                 `json:",omitempty"`
}

// after returns the cursor of the rows after the last one of a page of n rows that begins at c.
// It names that row if the JSON of its value and its key leads back to it. Other rows, such as one
// whose key is NaN, are counted, which takes longer the more there are.
func (c cursor) after(order inspection.Order, last inspection.Row, n int) cursor {
	next := cursor{Row: new([2]json.RawMessage)}
	err := safely(func() (err error) {
		if next.Row[0], err = marshal(last.Value); err != nil {
			return err
		}
		if next.Row[1], err = marshal(last.Key); err != nil {
			return err
		}
		row, err := next.row(order.Types())
		if err == nil && !order.Same(last, *row) {
			err = errors.New("the JSON is that of another row")
		}
		return err
	})
	if err != nil {
		return cursor{c.Row, c.Skip + n}
	}
	return next
}

// marshal returns the JSON of a value, also if only a pointer to it has the method.
func marshal(v any) ([]byte, error) {
	if v == nil {
		return nil, errors.New("nil")
	}
	p := reflect.New(reflect.TypeOf(v))
	p.Elem().Set(reflect.ValueOf(v))
	return json.Marshal(p.Interface())
}

func (c cursor) String() string {
	text, _ := json.Marshal(c)
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseCursor(text string) (c cursor, err error) {
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return c, err
	}
	if err = json.Unmarshal(data, &c); err == nil && c.Skip < 0 {
		err = errors.New("negative")
	}
	return c, err
}

// row returns the row that the cursor names, if it names one.
func (c cursor) row(valueType, keyType reflect.Type) (*inspection.Row, error) {
	if c.Row == nil {
		return nil, nil
	}
	value, key := reflect.New(valueType), reflect.New(keyType)
	err := safely(func() error {
		if err := json.Unmarshal(c.Row[0], value.Interface()); err != nil {
			return err
		}
		return json.Unmarshal(c.Row[1], key.Interface())
	})
	row := &inspection.Row{Value: value.Elem().Interface(), Key: key.Elem().Interface()}
	if err == nil && (isNil(row.Value) || isNil(row.Key)) {
		err = errors.New("nil")
	}
	return row, err
}

// jsonOf returns the JSON of a value. If it has none, it returns {"error": "..."}, so that one row
// does not hide the others.
func jsonOf(v any) (data []byte) {
	err := safely(func() (err error) {
		if isDeeper(reflect.ValueOf(v), maxDepth) {
			return fmt.Errorf("%T is nested more than %d levels deep", v, maxDepth)
		}
		data, err = json.Marshal(v)
		return err
	})
	if err != nil {
		data, _ = json.Marshal(map[string]string{"error": err.Error()})
	}
	return data
}

// maxDepth is how many pointers, maps and other values can be within each other. A stack overflow,
// as by a list of a million elements, would end the program.
const maxDepth = 1000

// isDeeper reports whether what encoding/json sees of a value is nested more than so many levels
// deep. A cycle is.
func isDeeper(v reflect.Value, levels int) bool {
	if levels < 0 {
		return true
	}
	if v.IsValid() && (v.Type().Implements(jsonMarshaler) || v.Type().Implements(textMarshaler)) {
		return false // the method sees to it
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return !v.IsNil() && isDeeper(v.Elem(), levels-1)
	case reflect.Map:
		for elements := v.MapRange(); elements.Next(); {
			if isDeeper(elements.Value(), levels-1) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		if isFlat(v.Type().Elem().Kind()) {
			return false
		}
		for i := range v.Len() {
			if isDeeper(v.Index(i), levels-1) {
				return true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if (f.IsExported() || f.Anonymous) && f.Tag.Get("json") != "-" && isDeeper(v.Field(i), levels-1) {
				return true
			}
		}
	}
	return false
}

var jsonMarshaler, textMarshaler = reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()

// isFlat reports whether values of a kind have no other values within them.
func isFlat(k reflect.Kind) bool { return k <= reflect.Complex128 || k == reflect.String }

// safely calls f, which calls methods of users' types, and returns a panic as an error.
func safely(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}
