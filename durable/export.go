package durable

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/seed-637b77f9/changefeed"
)

// A line is a line of an export.
type line struct {
	Table string          `json:"table"`
	Row   json.RawMessage `json:"row"`
}

// Export writes the rows of tables as lines of JSON, for people and for other programs:
//
//	{"table":"players","row":{"Name":"Bob","Score":10}}
//
// All rows are of one moment. They come in the order of the tables, and of each table's keys. The
// row is what encoding/json makes of it, whatever the table's [Encoding] is. No store is needed,
// and nobody waits.
func Export(w io.Writer, tables ...Table) error {
	all, err := anyTables(tables)
	if err != nil {
		return fmt.Errorf("durable: export: %w", err)
	}
	buffered := bufio.NewWriter(w)
	lines := json.NewEncoder(buffered)
	err = changefeed.Read(func(tx *changefeed.Tx) error {
		for _, t := range tables {
			if err := t.export(tx, lines); err != nil {
				return tableError(t.table().Name(), err)
			}
		}
		return buffered.Flush()
	}, all...)
	if err != nil {
		return fmt.Errorf("durable: export: %w", err)
	}
	return nil
}

// Import inserts the rows that [Export] has written, in one transaction. A row whose key is in its
// table is an error, and so is one of a table that was not passed. After an error, no table is
// changed. The error names the line. The rows are decoded by encoding/json, whatever [Encoding] and
// [Version] are. So a field that is missing is zero, and one that the row's type lacks is ignored.
//
// In tables of a store, the rows are on disk when [Store.Wait] returns for their positions.
func Import(r io.Reader, tables ...Table) error {
	all, err := anyTables(tables)
	if err != nil {
		return fmt.Errorf("durable: import: %w", err)
	}
	named := make(map[string]Table)
	for _, t := range tables {
		named[t.table().Name()] = t
	}
	number := 0
	err = changefeed.Transact(func(tx *changefeed.Tx) error {
		for lines := json.NewDecoder(r); ; {
			number++
			var l line
			if err := lines.Decode(&l); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			t := named[l.Table]
			if t == nil {
				return fmt.Errorf("table %q was not passed", l.Table)
			}
			if len(l.Row) == 0 || string(l.Row) == "null" {
				return tableError(l.Table, errors.New("no row"))
			}
			if err := t.add(tx, l.Row); err != nil {
				return err
			}
		}
	}, all...)
	if err != nil {
		return fmt.Errorf("durable: import: line %d: %w", number, err)
	}
	return nil
}

func anyTables(tables []Table) (all []changefeed.AnyTable, err error) {
	names := make(map[string]bool)
	for _, t := range tables {
		if t == nil {
			return nil, errors.New("nil table")
		}
		name := t.table().Name()
		if names[name] {
			return nil, tableError(name, errors.New("passed twice"))
		}
		names[name] = true
		all = append(all, t.table())
	}
	return all, nil
}

func (r *rows[K, V]) export(tx *changefeed.Tx, lines *json.Encoder) error {
	for key, row := range r.t.In(tx).All() {
		data, err := json.Marshal(&row)
		if err != nil {
			return rowError(fmt.Sprint(key), "encoded", err)
		}
		if err := lines.Encode(line{r.t.Name(), data}); err != nil {
			return err
		}
	}
	return nil
}

func (r *rows[K, V]) add(tx *changefeed.Tx, data []byte) error {
	var row V
	if err := json.Unmarshal(data, &row); err != nil {
		return tableError(r.t.Name(), err)
	}
	_, err := r.t.In(tx).Insert(row)
	return err
}
