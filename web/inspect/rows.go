package inspect

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"

	"github.com/seed-637b77f9/changefeed/internal/inspection"
	"github.com/seed-637b77f9/changefeed/web"
)

// A rowPage is some rows of a table.
type rowPage struct {
	Table string    `json:"table"`
	By    string    `json:"by"` // the index, or empty for the keys
	Rows  []rowView `json:"rows"`
	Next  string    `json:"next,omitempty"` // the cursor of the next page, or empty if there is none
}

type rowView struct {
	Value json.RawMessage `json:"value"` // in the index; without an index it is the key
	Key   json.RawMessage `json:"key"`
	Row   json.RawMessage `json:"row"`
}

const maxRows = 1000

// rows returns the page of rows that a request asks for.
func (h *handler) rows(query url.Values) (*rowPage, error) {
	t := h.find(query.Get("table"))
	if t == nil {
		return nil, &web.StatusError{Status: http.StatusNotFound, Text: "there is no such table"}
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
	p := &rowPage{Table: t.label, By: order.Name(), Rows: []rowView{}}
	var last inspection.Row
	for row := range order.Rows(in) {
		if len(p.Rows) == limit {
			p.Next, err = cursorOf(last)
			break
		}
		p.Rows = append(p.Rows, rowView{jsonOf(row.Value), jsonOf(row.Key), jsonOf(row.Row)})
		last = row
	}
	return p, err
}

func find(orders []inspection.Order, name string) inspection.Order {
	for _, o := range orders {
		if o.Name() == name {
			return o
		}
	}
	return nil
}

// intervalOf returns the interval that a request asks for.
func intervalOf(order inspection.Order, query url.Values) (in inspection.Interval, err error) {
	if query.Has("equal") && (query.Has("from") || query.Has("to")) {
		return in, badRequest("equal cannot be combined with from and to")
	}
	valueType, keyType := order.Types()
	for name, to := range map[string]*any{"equal": &in.Equal, "from": &in.From, "to": &in.To} {
		if !query.Has(name) {
			continue
		}
		if *to, err = parse(query.Get(name), valueType); err != nil {
			return in, badRequest("%s is not a value of type %v", name, valueType)
		}
	}
	if cursor := query.Get("after"); cursor != "" {
		if in.After, err = parseCursor(cursor, valueType, keyType); err != nil {
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

// A cursor is the JSON of the value and of the key of the last row of a page.
type cursor [2]json.RawMessage

func cursorOf(last inspection.Row) (string, error) {
	var text []byte
	err := safely(func() (err error) {
		text, err = json.Marshal([2]any{last.Value, last.Key})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("there are more rows, but the key of the last one cannot be encoded: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(text), nil
}

func parseCursor(text string, valueType, keyType reflect.Type) (*inspection.Row, error) {
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	var c cursor
	value, key := reflect.New(valueType), reflect.New(keyType)
	err = safely(func() error {
		if err := json.Unmarshal(data, &c); err != nil {
			return err
		}
		if err := json.Unmarshal(c[0], value.Interface()); err != nil {
			return err
		}
		return json.Unmarshal(c[1], key.Interface())
	})
	return &inspection.Row{Value: value.Elem().Interface(), Key: key.Elem().Interface()}, err
}

// jsonOf returns the JSON of a value. If it has none, it returns {"error": "..."}, so that one row
// does not hide the others.
func jsonOf(v any) (data json.RawMessage) {
	err := safely(func() (err error) {
		data, err = json.Marshal(v)
		return err
	})
	if err != nil {
		data, _ = json.Marshal(map[string]string{"error": err.Error(), "text": fmt.Sprintf("%+v", v)})
	}
	return data
}

// safely calls f, which calls methods of users' types, and returns a panic as an error.
func safely(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}
