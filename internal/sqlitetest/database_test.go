package sqlitetest

import (
	"strconv"
	"testing"

	"github.com/seed-637b77f9/changefeed"
	"github.com/stretchr/testify/require"
	"zombiezen.com/go/sqlite"
)

// A database is a database of SQLite in memory.
type database struct {
	t    *testing.T
	conn *sqlite.Conn
}

func newDatabase(t *testing.T) database {
	conn, err := sqlite.OpenConn(":memory:", sqlite.OpenReadWrite, sqlite.OpenCreate, sqlite.OpenMemory)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	db := database{t, conn}
	db.run("PRAGMA page_size = 512") // a query makes tables of a few rows
	db.run("PRAGMA temp_store = MEMORY")
	return db
}

// prepare returns a statement. It returns the same one for the same query.
func (db database) prepare(query string) *sqlite.Stmt {
	stmt, err := db.conn.Prepare(query)
	require.NoError(db.t, err, "%s", query)
	return stmt
}

// run executes a statement without parameters and rows.
func (db database) run(query string) {
	stmt := db.prepare(query)
	_, err := stmt.Step()
	require.NoError(db.t, err, "%s", query)
	require.NoError(db.t, stmt.Reset())
}

// write executes a statement, and returns the error with which a table refuses the same write.
func (db database) write(stmt *sqlite.Stmt) error {
	_, err := stmt.Step()
	if err != nil {
		require.Equal(db.t, sqlite.ResultConstraint, sqlite.ErrCode(err).ToPrimary(), "%v", err)
		return changefeed.ErrDuplicateKey
	}
	require.NoError(db.t, stmt.Reset())
	if db.conn.Changes() == 0 {
		return changefeed.ErrNotFound
	}
	return nil
}

// query appends the rows that a statement returns.
func (db database) query(b text, stmt *sqlite.Stmt) text {
	columns := stmt.ColumnCount()
	for {
		more, err := stmt.Step()
		if err != nil {
			require.NoError(db.t, err)
		}
		if !more {
			require.NoError(db.t, stmt.Reset())
			return b
		}
		b = b.row()
		for i := range columns {
			switch kind := stmt.ColumnType(i); kind {
			case sqlite.TypeInteger:
				b = b.int(stmt.ColumnInt(i))
			case sqlite.TypeText:
				b = b.string(stmt.ColumnText(i))
			case sqlite.TypeNull:
				b = b.null()
			default:
				require.Fail(db.t, "a value of another type", "%v", kind)
			}
		}
	}
}

// A text is rows as text, one a line. Each begins with a newline.
type text []byte

func (b text) row() text            { return append(b, '\n') }
func (b text) int(n int) text       { return append(strconv.AppendInt(b, int64(n), 10), ' ') }
func (b text) string(s string) text { return append(append(append(b, '\''), s...), "' "...) }
func (b text) null() text           { return append(b, "NULL "...) }
