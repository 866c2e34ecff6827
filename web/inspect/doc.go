// Package inspect shows the tables of a running program in a browser: their rows, their feeds and
// their changes as they are made.
//
//	mux.Handle("/debug/changefeed/", inspect.Handler(players, games))
//
// A [changefeed.View] is passed and shown like a table.
//
// The page has three parts. The overview shows each table with its rows, indexes, retained changes
// and writes a second. It also shows each feed with its selection, options, buffer, skipped changes
// and lag. Feeds with a full buffer come first, and then those that are the furthest behind. The
// second part shows the rows of a table by key, or by the values of an index. The third shows changes
// when they are made, with the old and the new row side by side.
//
// # For programs
//
// The same comes as JSON. Versions to come may add fields. These are the parameters of the URL:
//
//	?format=json                                tables and feeds
//	    feeds=TEXT                              only feeds whose name or selection has the text
//	    limit=N                                 at most N feeds; the default is 100
//	?view=rows&table=NAME                       a page of rows
//	    by=INDEX                                in the order of an index; the default is that of the keys
//	    equal=VALUE, or from=VALUE and to=VALUE only these rows; from is included, and to is not
//	    after=CURSOR                            the page after the one whose "next" that was
//	    limit=N                                 at most N rows; the default is 50, and the limit 1000
//	?view=tail&table=NAME                       commits as server-sent events; without a table, of all of them
//
// A value is plain text for a string, what UnmarshalText takes, or JSON. If several tables have one
// name, the second is called NAME#2. The other parameters of a page with a cursor must be those of the
// page before it. A page of rows, in which value is that of the index, is
//
//	{"table":"players","by":"team","next":"CURSOR","rows":[
//	{"value":"red","key":7,"row":{"ID":7,"Team":"red"}}]}
//
// A row that has no JSON, or is nested more than 1,000 levels deep, is {"error":"..."}. The last page
// has an empty next.
//
// An event of the tail is an array of the changes of a commit. Other events say that changes were
// skipped, and that tables were dropped. After the last table, the event "end" comes:
//
//	data: [{"table":"players","seq":8,"kind":"update","old":{"ID":7,"Team":"red"},"new":{"ID":7,"Team":"blue"}}]
//
//	event: skipped
//	data: {"count":3,"reset":false}
//
//	event: dropped
//	data: {"tables":["games"]}
//
// # Cost
//
// While nobody looks, the inspector costs nothing. A page asks once a second for what it shows. That
// takes linear time in the number of feeds, but not in the number of rows, and delays no writer. While
// somebody looks at the changes, each commit to the tables is stored once more, as it is with
// [changefeed.Commits]. The page gets about 1,000 changes a second, and shows how many it missed.
// A transaction of more than 200 changes is always missed.
//
// A page of rows takes the same time wherever it is. Some keys cannot be read back from their JSON,
// or have none. A page after such a row takes linear time in the rows before it.
//
// The changes that a page follows are a feed, so [changefeed.Table.Restore] fails while one is open.
// A page that was left open connects again when the program starts. A program therefore restores its
// tables before it serves the inspector.
//
// # What it protects from
//
// The inspector never writes to a table, and its page loads nothing from elsewhere. It shows all rows,
// with all fields that encoding/json sees, to everybody who can send a request. Serve it on an
// address that only operators reach, or behind a middleware that checks who asks. It is not
// registered by an import.
package inspect
